#include "encoder/model_config.h"

#include <string>

#include "base/file.h"
#include "encoder/testing/tiny_checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

using testing::HasSubstr;
using Json = nlohmann::json;

class ModelConfigTest : public testing::Test {
 protected:
  void SetUp() override {
    directory_ = testing::TempDir() + "/model_config_" + testing::UnitTest::GetInstance()->current_test_info()->name();
    ASSERT_TRUE(fs_.DeleteRecursively(directory_).ok());
    ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, {}).ok());
  }
  void TearDown() override { EXPECT_TRUE(fs_.DeleteRecursively(directory_).ok()); }

  void Write(const std::string& name, const std::string& content) {
    ASSERT_TRUE(WriteFileAtomically(fs_, directory_ + "/" + name, content).ok());
  }

  // Sets one key of a JSON file.
  void Set(const std::string& name, const std::string& key, const Json& value) {
    const std::string path = directory_ + "/" + name;
    Json json = fs_.Exists(path) ? Json::parse(*fs_.ReadFile(path)) : Json::object();
    json[key] = value;
    Write(name, json.dump());
  }

  void ExpectRefused(const std::string& file, const std::string& message) {
    const auto config = LoadModelConfig(fs_, directory_);
    ASSERT_FALSE(config.ok()) << message;
    EXPECT_EQ(config.status().code(), absl::StatusCode::kInvalidArgument) << config.status();
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(file));
    EXPECT_THAT(std::string(config.status().message()), HasSubstr(message));
  }

  FileSystem& fs_ = PosixFileSystem();
  std::string directory_;
};

TEST_F(ModelConfigTest, ReadsACheckpoint) {
  TinyCheckpointOptions options;
  options.pooling = "cls";
  options.normalize = false;
  options.query_prefix = "query: ";
  options.passage_prefix = "passage: ";
  ASSERT_TRUE(WriteTinyCheckpoint(fs_, directory_, options).ok());
  const auto config = LoadModelConfig(fs_, directory_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->hidden_size, 32);
  EXPECT_EQ(config->layer_count, 2);
  EXPECT_EQ(config->head_count, 2);
  EXPECT_EQ(config->intermediate_size, 64);
  EXPECT_EQ(config->max_length, 64);
  EXPECT_EQ(config->pooling, Pooling::kCls);
  EXPECT_FALSE(config->normalize);
  EXPECT_EQ(config->query_prefix, "query: ");
  EXPECT_EQ(config->passage_prefix, "passage: ");
}

TEST_F(ModelConfigTest, WithoutModulesPoolsTheMeanUnnormalised) {
  ASSERT_TRUE(fs_.DeleteFile(directory_ + "/modules.json").ok());
  const auto config = LoadModelConfig(fs_, directory_);
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->pooling, Pooling::kMean);
  EXPECT_FALSE(config->normalize);
}

TEST_F(ModelConfigTest, TheLeastOfAllLimitsIsTheMaximumLength) {
  Write("sentence_bert_config.json", R"({"max_seq_length": 40, "do_lower_case": false})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->max_length, 40);
  Write("sentence_bert_config.json", R"({"max_seq_length": 4000})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->max_length, 64);
  Write("sentence_bert_config.json", R"({"max_seq_length": null})");
  Write("tokenizer_config.json", R"({"model_max_length": 50})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->max_length, 50);
  Write("tokenizer_config.json", R"({"model_max_length": 1000000000000000019884624838656})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->max_length, 64);
}

TEST_F(ModelConfigTest, ADefaultPromptServesTheRoleWithoutItsOwn) {
  Write("config_sentence_transformers.json", R"({"prompts":{"x":"X ","query":"Q "},"default_prompt_name":"x"})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->query_prefix, "Q ");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->passage_prefix, "X ");
}

TEST_F(ModelConfigTest, RefusesWhatIsNotImplementedByName) {
  Set("config.json", "model_type", "roberta");
  ExpectRefused("config.json", "model_type \"roberta\"");
  Set("config.json", "model_type", "bert");
  Set("config.json", "hidden_act", "gelu_new");
  ExpectRefused("config.json", "hidden_act \"gelu_new\"");
  Set("config.json", "hidden_act", "gelu");
  Set("config.json", "position_embedding_type", "relative_key");
  ExpectRefused("config.json", "position_embedding_type \"relative_key\"");
  Set("config.json", "position_embedding_type", nullptr);
  Set("config.json", "is_decoder", true);
  ExpectRefused("config.json", "is_decoder");
  Set("config.json", "is_decoder", false);
  ASSERT_TRUE(LoadModelConfig(fs_, directory_).ok());

  Set("1_Pooling/config.json", "pooling_mode_weightedmean_tokens", true);
  ExpectRefused("1_Pooling/config.json", "names 2 pooling modes");
  Set("1_Pooling/config.json", "pooling_mode_mean_tokens", false);
  ExpectRefused("1_Pooling/config.json", "pooling_mode_weightedmean_tokens is not supported");
  Write("1_Pooling/config.json", R"({"pooling_mode":"max","word_embedding_dimension":33})");
  ExpectRefused("1_Pooling/config.json", "word_embedding_dimension is 33");
  Write("1_Pooling/config.json", R"({"pooling_mode":"max","include_prompt":false})");
  ExpectRefused("1_Pooling/config.json", "include_prompt");
  Write("1_Pooling/config.json", R"({"pooling_mode":"max"})");
  EXPECT_EQ(LoadModelConfig(fs_, directory_)->pooling, Pooling::kMax);

  Set("config_sentence_transformers.json", "similarity_fn_name", "euclidean");
  ExpectRefused("config_sentence_transformers.json", "euclidean");
}

TEST_F(ModelConfigTest, RefusesModulesItDoesNotKnowOrThatLeaveTheFolder) {
  const auto modules = [](const std::string& third, const std::string& path) {
    return R"([{"type":"s.Transformer","path":""},{"type":"s.Pooling","path":")" + path + R"("},{"type":"s.)" + third +
           R"(","path":"2"}])";
  };
  Write("modules.json", modules("Dense", "1_Pooling"));
  ExpectRefused("modules.json", "s.Dense is not supported");
  for (const char* path : {"..", "../1_Pooling", "/etc", "a/../../b"}) {
    Write("modules.json", modules("Normalize", path));
    ExpectRefused("modules.json", "does not name a folder");
  }
  Write("modules.json", R"([{"type":"s.Pooling","path":"1_Pooling"},{"type":"s.Transformer","path":""}])");
  ExpectRefused("modules.json", "in this order");
  Write("modules.json", R"([{"type":"s.Transformer"}])");
  ExpectRefused("modules.json", "no type or path");
  Write("modules.json", "[1]");
  ExpectRefused("modules.json", "no type or path");
  Write("modules.json", "{}");
  ExpectRefused("modules.json", "not a JSON array");
}

TEST_F(ModelConfigTest, RefusesValuesOfTheWrongTypeOrOutOfRange) {
  const std::string good = *fs_.ReadFile(directory_ + "/config.json");
  const struct {
    const char* key;
    Json value;
    const char* message;
  } kCases[] = {{"hidden_size", "32", "hidden_size is not a whole number"},
                {"hidden_size", 0, "hidden_size is 0"},
                {"hidden_size", -1, "hidden_size is -1"},
                {"hidden_size", 1e3, "not a whole number"},
                {"hidden_size", 18446744073709551615ull, "it must lie in"},
                {"hidden_size", nullptr, "hidden_size is missing"},
                {"num_attention_heads", 3, "not a multiple of num_attention_heads 3"},
                {"num_hidden_layers", 1000, "num_hidden_layers is 1000"},
                {"layer_norm_eps", "tiny", "layer_norm_eps"},
                {"layer_norm_eps", -1, "layer_norm_eps"},
                {"is_decoder", 1, "is_decoder is not a boolean"},
                {"model_type", 1, "model_type is not a string"}};
  for (const auto& c : kCases) {
    Write("config.json", good);
    Set("config.json", c.key, c.value);
    ExpectRefused("config.json", c.message);
  }
}

TEST_F(ModelConfigTest, RefusesFilesThatAreNotJson) {
  for (const char* name : {"config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json",
                           "config_sentence_transformers.json"}) {
    const std::string path = directory_ + "/" + name;
    const std::string good = fs_.Exists(path) ? *fs_.ReadFile(path) : "{}";
    for (const std::string& bad : {std::string("{"), std::string(), std::string(500'000, '['), std::string("\xff")}) {
      Write(name, bad);
      ExpectRefused(name, "is not JSON");
    }
    Write(name, std::string((1 << 20) + 1, ' '));
    ExpectRefused(name, "the limit is 1048576");
    Write(name, good);
  }
  Write("config.json", "[]");
  ExpectRefused("config.json", "not a JSON object");
}

TEST_F(ModelConfigTest, SaysThatConfigJsonIsMissing) {
  const auto config = LoadModelConfig(fs_, directory_ + "/nowhere");
  EXPECT_EQ(config.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(config.status().message()), HasSubstr("nowhere/config.json"));
}

}  // namespace
}  // namespace loci
