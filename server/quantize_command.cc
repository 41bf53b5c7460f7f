#include "server/quantize_command.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/split_mix.h"
#include "base/status_macros.h"
#include "encoder/encoder.h"
#include "encoder/fidelity.h"

namespace loci {
namespace {

struct Options {
  std::string model;
  std::string texts;
  int64_t sample = kDefaultFidelitySample;
  std::string record;
  bool record_given = false;
};

absl::StatusOr<Options> Parse(const std::vector<std::string>& arguments) {
  Options options;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string flag = arguments[i], value;
    const size_t equals = flag.find('=');
    if (equals != std::string::npos) {
      value = flag.substr(equals + 1);
      flag.resize(equals);
    }
    if (flag != "--model" && flag != "--texts" && flag != "--sample" && flag != "--record") {
      return absl::InvalidArgumentError(
          absl::StrCat("quantize has no flag \"", flag.substr(0, 64), "\"; it has --model, --texts, --sample and --record"));
    }
    if (equals == std::string::npos) {
      if (i + 1 == arguments.size()) return absl::InvalidArgumentError(absl::StrCat(flag, " needs a value"));
      value = arguments[++i];
    }
    if (flag == "--model") options.model = std::move(value);
    if (flag == "--texts") options.texts = std::move(value);
    if (flag == "--sample" &&
        (!absl::SimpleAtoi(value, &options.sample) || options.sample < kMinFidelityTexts || options.sample > kMaxFidelityTexts)) {
      return absl::InvalidArgumentError(absl::StrCat("--sample is \"", value.substr(0, 64), "\"; it must be a number from ",
                                                     kMinFidelityTexts, " to ", kMaxFidelityTexts));
    }
    if (flag == "--record") {
      options.record = std::move(value);
      options.record_given = true;
    }
  }
  if (options.model.empty()) return absl::InvalidArgumentError("quantize needs --model, the checkpoint's folder");
  if (options.texts.empty())
    return absl::InvalidArgumentError("quantize needs --texts, a file of texts like those to be searched");
  if (!options.record_given) options.record = JoinPath(options.model, kInt8FidelityFile);
  return options;
}

// A uniform sample of at most `limit` texts: of n that were read, the last takes the place of one that is held with probability limit / n.
absl::StatusOr<std::vector<std::string>> ReadSample(std::istream& input, const std::string& name, int64_t limit) {
  std::vector<std::string> sample;
  SplitMix64 random(kFidelitySampleSeed);
  int64_t count = 0;
  const auto add = [&](std::string text) {
    if (++count <= limit) {
      sample.push_back(std::move(text));
      return;
    }
    const int64_t place = random.Below(count);
    if (place < limit) sample[static_cast<size_t>(place)] = std::move(text);
  };
  int64_t number = 0;
  for (std::string line; std::getline(input, line);) {
    if (++number == 1 && line.starts_with("\x1f\x8b")) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, " is gzipped; unpack it before: gzip -dc FILE | loci_server quantize --model DIR --texts -"));
    }
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty()) continue;
    if (line.front() != '{') {
      add(std::move(line));
      continue;
    }
    google::protobuf::Struct object;
    if (!google::protobuf::util::JsonStringToMessage(line, &object).ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", number, ": not a JSON object"));
    }
    const auto text = object.fields().find("text");
    if (text == object.fields().end() || text->second.kind_case() != google::protobuf::Value::kStringValue) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", number, ": the JSON object has no string \"text\""));
    }
    const auto title = object.fields().find("title");
    add(PassageText(title == object.fields().end() ? "" : title->second.string_value(), text->second.string_value()));
  }
  if (input.bad()) return absl::DataLossError(absl::StrCat(name, ":", number + 1, ": cannot be read"));
  return sample;
}

}  // namespace

absl::StatusOr<QuantizeResult> RunQuantizeCommand(const std::vector<std::string>& arguments, std::istream& input) {
  LOCI_ASSIGN_OR_RETURN(const Options options, Parse(arguments));
  std::ifstream file;
  if (options.texts != "-") {
    if (PosixFileSystem().IsDirectory(options.texts)) return absl::InvalidArgumentError(absl::StrCat("--texts is ", options.texts, ", a folder; it must be a file"));
    file.open(options.texts);
    if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", options.texts));
  }
  LOCI_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                        ReadSample(options.texts == "-" ? input : file, options.texts, options.sample));
  std::shared_ptr<const Encoder> encoders[3];
  const Precision precisions[] = {Precision::kFloat32, Precision::kAuto, Precision::kInt8};
  for (int i = 0; i < 3; ++i) {
    EncoderOptions encoder_options;
    encoder_options.precision = precisions[i];
    LOCI_ASSIGN_OR_RETURN(encoders[i], LoadEncoder(PosixFileSystem(), options.model, encoder_options));
  }
  LOCI_ASSIGN_OR_RETURN(const Fidelity fidelity, MeasureFidelity(*encoders[0], *encoders[1], *encoders[2], texts));
  QuantizeResult result;
  result.report = FidelityTable(fidelity);
  if (options.record.empty()) return result;
  const absl::Status written = WriteFileAtomically(PosixFileSystem(), options.record, FidelityJson(fidelity));
  if (written.ok()) {
    absl::StrAppend(&result.report, "recorded in ", options.record, "\n");
  } else {
    absl::StrAppend(&result.report, "not recorded: ", written.message(), "\n");
    if (options.record_given) result.recorded = written;
  }
  return result;
}

std::string QuantizeHelp() {
  return "usage: loci_server quantize --model DIR --texts FILE|- [--sample N] [--record FILE]\n"
         "\n"
         "Measures on this machine how near int8 vectors are to float32's over real texts, and how much faster they come.\n"
         "\n"
         "  --model DIR    a checkpoint's folder\n"
         "  --texts FILE   a text a line, or JSON objects with \"text\" and \"title\"; - is standard input\n"
         "  --sample N     so many of them, " +
         std::to_string(kMinFidelityTexts) + " to " + std::to_string(kMaxFidelityTexts) + ", drawn at random (" + std::to_string(kDefaultFidelitySample) +
         ")\n"
         "  --record FILE  keeps the figures as JSON, for people: no server reads them. Without it in DIR/int8_fidelity.json, and where\n"
         "                 that can't be written the report says so; FILE that can't be is an error (exit status 1); \"\" keeps none\n";
}

}  // namespace loci
