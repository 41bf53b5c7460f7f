// What the sentence reader sees for questions whose gold passages are known: the features that calibrate_sentence_reader.py fits on.
//
//   sentence_reader_features MODEL_DIRECTORY CORPUS.jsonl QUESTIONS.jsonl [top_k]
//
// CORPUS: {"id", "title", "text"} a line. QUESTIONS: {"id", "text", "gold": [passage ids], "answers": [strings], "deleted": bool} a line.
// A question with "deleted" is searched as if the corpus had none of its gold passages. Writes a line a question to standard output:
// {"id", "deleted", "sentences": [[cosine, margin, overlap, passage score, right], ...]}: the candidates of the reader in its order. A
// sentence is right where it holds one of the answers verbatim, or, for a question without answers, where its passage is gold.
#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <numeric>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/file.h"
#include "base/metrics.h"
#include "base/status_macros.h"
#include "base/thread_pool.h"
#include "encoder/encoder.h"
#include "encoder/text_encoder.h"
#include "nlohmann/json.hpp"
#include "proto/loci/v1/common.pb.h"
#include "retriever/sentence_evidence.h"

namespace loci {
namespace {

using Json = nlohmann::json;

std::vector<Json> ReadLines(const std::string& path) {
  std::vector<Json> lines;
  std::ifstream file(path);
  for (std::string line; std::getline(file, line);) {
    if (!line.empty()) lines.push_back(Json::parse(line));
  }
  return lines;
}

struct Hit {
  size_t passage = 0;
  float score = 0;
};

double Dot(const float* a, const float* b, size_t dim) { return std::inner_product(a, a + dim, b, 0.0); }

// [texts, dim], with progress on standard error.
absl::StatusOr<std::vector<float>> EncodeAll(TextEncoder& encoder, const std::vector<std::string>& texts, TextRole role,
                                             const char* what) {
  std::vector<float> vectors;
  constexpr size_t kTexts = 512;
  for (size_t i = 0; i < texts.size(); i += kTexts) {
    const std::vector<std::string> part(texts.begin() + i, texts.begin() + std::min(texts.size(), i + kTexts));
    LOCI_ASSIGN_OR_RETURN(const EncodedTexts encoded, encoder.EncodeAndWait(part, {.role = role}));
    vectors.insert(vectors.end(), encoded.vectors.begin(), encoded.vectors.end());
    std::cerr << what << ' ' << i + part.size() << '/' << texts.size() << '\n';
  }
  return vectors;
}

absl::Status Run(const std::string& model_directory, const std::string& corpus_path, const std::string& questions_path, size_t top_k) {
  ThreadPool pool("encode", 2, 1000);
  LOCI_ASSIGN_OR_RETURN(const std::shared_ptr<const Encoder> encoder,
                        LoadEncoder(PosixFileSystem(), model_directory, {.pool = &pool}));
  TextEncoder text_encoder(encoder, {}, RealClock(), NullMetrics());
  const size_t dim = encoder->spec().dim;

  std::vector<loci::v1::Passage> corpus;
  std::vector<std::string> texts;
  for (const Json& line : ReadLines(corpus_path)) {
    loci::v1::Passage& passage = corpus.emplace_back();
    passage.set_id(line["id"].get<std::string>());
    passage.set_title(line.value("title", ""));
    passage.set_text(line["text"].get<std::string>());
    texts.push_back(PassageText(passage.title(), passage.text()));
  }
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> passage_vectors, EncodeAll(text_encoder, texts, TextRole::kPassage, "passages"));
  const std::vector<Json> questions = ReadLines(questions_path);
  texts.clear();
  for (const Json& question : questions) texts.push_back(question["text"].get<std::string>());
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> question_vectors, EncodeAll(text_encoder, texts, TextRole::kQuery, "questions"));

  // A sentence stands under many questions: it is encoded once.
  std::vector<std::vector<Hit>> hits(questions.size());
  std::vector<std::vector<SentenceCandidate>> candidates(questions.size());
  std::unordered_map<std::string, size_t> text_rows;
  texts.clear();
  for (size_t q = 0; q < questions.size(); ++q) {
    const std::unordered_set<std::string> gold = questions[q]["gold"].get<std::unordered_set<std::string>>();
    const bool deleted = questions[q]["deleted"].get<bool>();
    for (size_t p = 0; p < corpus.size(); ++p) {
      if (deleted && gold.count(corpus[p].id()) > 0) continue;
      hits[q].push_back({p, static_cast<float>(Dot(&question_vectors[q * dim], &passage_vectors[p * dim], dim))});
    }
    const size_t count = std::min(top_k, hits[q].size());
    std::partial_sort(hits[q].begin(), hits[q].begin() + count, hits[q].end(), [](const Hit& a, const Hit& b) { return a.score > b.score; });
    hits[q].resize(count);
    std::vector<loci::v1::Passage> passages;
    for (const Hit& hit : hits[q]) passages.push_back(corpus[hit.passage]);
    candidates[q] = FindSentenceCandidates(passages, encoder->tokenizer(), encoder->spec().max_length, {});
    for (const SentenceCandidate& candidate : candidates[q]) {
      if (text_rows.emplace(candidate.encoded_text, texts.size()).second) texts.push_back(candidate.encoded_text);
    }
  }
  LOCI_ASSIGN_OR_RETURN(const std::vector<float> sentence_vectors, EncodeAll(text_encoder, texts, TextRole::kPassage, "sentences"));

  for (size_t q = 0; q < questions.size(); ++q) {
    const std::unordered_set<std::string> gold = questions[q]["gold"].get<std::unordered_set<std::string>>();
    const std::vector<std::string> answers = questions[q]["answers"].get<std::vector<std::string>>();
    const QuestionWords words(questions[q]["text"].get<std::string>());
    std::vector<float> scores;
    for (const Hit& hit : hits[q]) scores.push_back(hit.score);
    Json line = {{"id", questions[q]["id"]}, {"deleted", questions[q]["deleted"]}, {"sentences", Json::array()}};
    for (const SentenceCandidate& candidate : candidates[q]) {
      const loci::v1::Passage& passage = corpus[hits[q][candidate.passage].passage];
      const std::string sentence = passage.text().substr(candidate.span.start, candidate.span.end - candidate.span.start);
      const bool right = answers.empty() ? gold.count(passage.id()) > 0
                                         : std::any_of(answers.begin(), answers.end(), [&](const std::string& answer) {
                                             return sentence.find(answer) != std::string::npos;
                                           });
      line["sentences"].push_back({Dot(&question_vectors[q * dim], &sentence_vectors[text_rows[candidate.encoded_text] * dim], dim),
                                   PassageMargin(scores, candidate.passage), words.ShareIn(candidate.encoded_text), scores[candidate.passage],
                                   right ? 1 : 0});
    }
    std::cout << line.dump() << '\n';
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace loci

int main(int argc, char** argv) {
  if (argc != 4 && argc != 5) {
    std::cerr << "usage: sentence_reader_features MODEL_DIRECTORY CORPUS.jsonl QUESTIONS.jsonl [top_k]\n";
    return 2;
  }
  const absl::Status status = loci::Run(argv[1], argv[2], argv[3], argc == 5 ? std::strtoul(argv[4], nullptr, 10) : 5);
  if (!status.ok()) std::cerr << status << '\n';
  return status.ok() ? 0 : 1;
}
