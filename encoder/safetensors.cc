#include "encoder/safetensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "base/strings.h"
#include "base/vector_type.h"
#include "nlohmann/json.hpp"

namespace loci {
namespace {

struct Dtype {
  const char* name;
  int64_t size_bytes;
};
constexpr Dtype kDtypes[] = {{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"F64", 8},     {"I64", 8},
                             {"I32", 4}, {"I16", 2}, {"I8", 1},   {"U64", 8},     {"U32", 4},
                             {"U16", 2}, {"U8", 1},  {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}};

// A name from the file as it may stand in a message.
std::string Quote(std::string_view text) {
  constexpr size_t kLimit = 100;
  return absl::StrCat("\"", absl::CHexEscape(AbslView(text.substr(0, kLimit))), text.size() > kLimit ? "...\"" : "\"");
}

// Takes nlohmann's parse events, which come without recursion, and stops at the first that the grammar does not have.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit HeaderHandler(std::map<std::string, TensorInfo, std::less<>>* tensors) : tensors_(tensors) {}

  const std::string& error() const { return error_; }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kEntry:
        state_ = entry_ == kMetadata ? State::kMetadataKey : State::kField;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(string_t& key) override {
    switch (state_) {
      case State::kTop:
        entry_ = key;
        info_ = TensorInfo();
        seen_dtype_ = seen_shape_ = seen_offsets_ = false;
        if (tensors_->count(key) > 0 || (key == kMetadata && seen_metadata_)) return Fail("is named twice");
        state_ = State::kEntry;
        return true;
      case State::kField: {
        bool* seen = key == "dtype"          ? &seen_dtype_
                     : key == "shape"        ? &seen_shape_
                     : key == "data_offsets" ? &seen_offsets_
                                             : nullptr;
        if (seen == nullptr) return Fail(absl::StrCat("has the unknown key ", Quote(key)));
        if (std::exchange(*seen, true)) return Fail(absl::StrCat("has the key ", key, " twice"));
        state_ = key == "dtype" ? State::kDtype : key == "shape" ? State::kShape : State::kOffsets;
        return true;
      }
      case State::kMetadataKey:
        state_ = State::kMetadataValue;
        return true;
      default:
        return Unexpected("a key");
    }
  }

  bool string(string_t& value) override {
    if (state_ == State::kMetadataValue) {
      state_ = State::kMetadataKey;
      return true;
    }
    if (state_ != State::kDtype) return Unexpected("a string");
    info_.dtype = value;
    state_ = State::kField;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ == State::kShape)
      state_ = State::kShapeItem;
    else if (state_ == State::kOffsets)
      state_ = State::kOffsetsItem;
    else
      return Unexpected("an array");
    return true;
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return Fail(absl::StrCat("has the number ", value, ", which is over 2^63 - 1"));
    }
    if (state_ == State::kShapeItem) {
      if (info_.shape.size() >= Safetensors::kMaxRank) {
        return Fail(absl::StrCat("has more than ", Safetensors::kMaxRank, " dimensions"));
      }
      info_.shape.push_back(static_cast<int64_t>(value));
      return true;
    }
    if (state_ == State::kOffsetsItem) {
      if (offset_count_ == 2) return Fail("has more than two data_offsets");
      (offset_count_++ == 0 ? info_.begin : info_.end) = static_cast<int64_t>(value);
      return true;
    }
    return Unexpected("a number");
  }
  bool number_integer(number_integer_t value) override { return Fail(absl::StrCat("has the negative number ", value)); }
  bool number_float(number_float_t, const string_t& text) override {
    return Fail(absl::StrCat("has the number ", Quote(text), ", which is not a whole number below 2^63"));
  }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(binary_t&) override { return Unexpected("binary data"); }

  bool end_array() override {
    if (state_ == State::kOffsetsItem) {
      if (offset_count_ != 2) return Fail("has fewer than two data_offsets");
      offset_count_ = 0;
    }
    state_ = State::kField;
    return true;
  }

  bool end_object() override {
    switch (state_) {
      case State::kField:
        if (!seen_dtype_) return Fail("has no dtype");
        if (!seen_shape_) return Fail("has no shape");
        if (!seen_offsets_) return Fail("has no data_offsets");
        tensors_->emplace(entry_, std::move(info_));
        state_ = State::kTop;
        return true;
      case State::kMetadataKey:
        seen_metadata_ = true;
        state_ = State::kTop;
        return true;
      case State::kTop:
        state_ = State::kEnd;
        return true;
      default:
        return Unexpected("the end of an object");
    }
  }

  bool parse_error(std::size_t position, const std::string&, const nlohmann::json::exception&) override {
    if (error_.empty()) error_ = absl::StrCat("the header is not JSON: error at its byte ", position);
    return false;
  }

 private:
  static constexpr char kMetadata[] = "__metadata__";
  enum class State {
    kStart,
    kTop,
    kEntry,
    kField,
    kDtype,
    kShape,
    kShapeItem,
    kOffsets,
    kOffsetsItem,
    kMetadataKey,
    kMetadataValue,
    kEnd
  };

  bool Fail(std::string_view what) {
    error_ = absl::StrCat("tensor ", Quote(entry_), " ", AbslView(what));
    return false;
  }
  bool Unexpected(std::string_view what) {
    error_ = state_ == State::kStart || state_ == State::kEnd
                 ? absl::StrCat("the header is not one JSON object: it has ", AbslView(what))
                 : absl::StrCat("tensor ", Quote(entry_), " has ", AbslView(what), " where the format has none");
    return false;
  }

  std::map<std::string, TensorInfo, std::less<>>* const tensors_;
  State state_ = State::kStart;
  std::string entry_;
  TensorInfo info_;
  int offset_count_ = 0;
  bool seen_dtype_ = false;
  bool seen_shape_ = false;
  bool seen_offsets_ = false;
  bool seen_metadata_ = false;
  std::string error_;
};

std::optional<int64_t> DtypeSize(std::string_view name) {
  for (const Dtype& dtype : kDtypes) {
    if (name == dtype.name) return dtype.size_bytes;
  }
  return std::nullopt;
}

std::string ShapeText(const std::vector<int64_t>& shape) { return absl::StrCat("[", absl::StrJoin(shape, ", "), "]"); }

// What is wrong with one tensor alone, or an empty string.
std::string CheckTensor(const TensorInfo& info, int64_t data_size) {
  const std::optional<int64_t> element_size = DtypeSize(info.dtype);
  if (!element_size.has_value()) return absl::StrCat("has the unknown dtype ", Quote(info.dtype));
  if (info.begin > info.end || info.end > data_size) {
    return absl::StrCat("has data_offsets [", info.begin, ", ", info.end, "] outside the file's ", data_size, " bytes of data");
  }
  int64_t size = *element_size;
  for (int64_t extent : info.shape) {
    if (__builtin_mul_overflow(size, extent, &size))
      return absl::StrCat("has the shape ", ShapeText(info.shape), ", whose size overflows");
  }
  if (size != info.end - info.begin) {
    return absl::StrCat("of shape ", ShapeText(info.shape), " and dtype ", info.dtype, " needs ", size,
                        " bytes, but its data_offsets span ", info.end - info.begin);
  }
  return "";
}

}  // namespace

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::Open(FileSystem& fs, const std::string& path) {
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> mapped, fs.Map(path));
  LOCI_ASSIGN_OR_RETURN(std::unique_ptr<Safetensors> file, Parse(mapped->data(), path));
  file->mapped_ = std::move(mapped);
  return file;
}

absl::StatusOr<std::unique_ptr<Safetensors>> Safetensors::Parse(std::string_view content, const std::string& name) {
  const auto invalid = [&name](const std::string& what) { return absl::InvalidArgumentError(absl::StrCat(name, ": ", what)); };
  if (content.size() < 8)
    return invalid(absl::StrCat("the file has ", content.size(), " bytes, a safetensors file has at least 8"));
  uint64_t header_size = 0;
  for (int i = 7; i >= 0; --i) header_size = header_size << 8 | static_cast<uint8_t>(content[i]);
  if (header_size > static_cast<uint64_t>(kMaxHeaderBytes)) {
    return invalid(absl::StrCat("the header has ", header_size, " bytes, the limit is ", kMaxHeaderBytes));
  }
  if (header_size > content.size() - 8) {
    return invalid(absl::StrCat("the header has ", header_size, " bytes, but the file has only ", content.size()));
  }
  const std::string_view header = content.substr(8, header_size);
  if (header.empty() || header[0] != '{') return invalid("the header does not begin with '{'");

  // The JSON parser would take a zero byte for the end.
  if (header.find('\0') != std::string_view::npos) return invalid("the header is not JSON: it has a zero byte");

  auto file = std::unique_ptr<Safetensors>(new Safetensors());
  HeaderHandler handler(&file->tensors_);
  if (!nlohmann::json::sax_parse(header.begin(), header.end(), &handler)) {
    return invalid(handler.error().empty() ? "the header is not JSON" : handler.error());
  }
  file->name_ = name;
  file->content_ = content;
  file->data_ = content.substr(8 + header_size);

  const int64_t data_size = static_cast<int64_t>(file->data_.size());
  std::vector<std::pair<const std::string*, const TensorInfo*>> by_offset;
  for (const auto& [tensor, info] : file->tensors_) {
    const std::string wrong = CheckTensor(info, data_size);
    if (!wrong.empty()) return invalid(absl::StrCat("tensor ", Quote(tensor), " ", wrong));
    by_offset.emplace_back(&tensor, &info);
  }
  std::sort(by_offset.begin(), by_offset.end(), [](const auto& a, const auto& b) {
    return std::pair(a.second->begin, a.second->end) < std::pair(b.second->begin, b.second->end);
  });
  int64_t end = 0;
  const std::string* previous = nullptr;
  for (const auto& [tensor, info] : by_offset) {
    if (info->begin < end) return invalid(absl::StrCat("tensor ", Quote(*tensor), " overlaps tensor ", Quote(*previous)));
    if (info->begin > end) {
      return invalid(absl::StrCat("tensor ", Quote(*tensor), " begins at ", info->begin, ", leaving a gap after ", end));
    }
    end = info->end;
    previous = tensor;
  }
  if (end != data_size) return invalid(absl::StrCat("the tensors end at ", end, ", but there are ", data_size, " bytes of data"));
  return file;
}

absl::Status Safetensors::ReadFloats(std::string_view tensor, const std::vector<int64_t>& shape, float* out) const {
  const auto invalid = [&](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(name_, ": tensor ", Quote(tensor), " ", what));
  };
  const auto found = tensors_.find(tensor);
  if (found == tensors_.end()) return invalid("is missing");
  const TensorInfo& info = found->second;
  if (info.shape != shape) {
    return invalid(absl::StrCat("has the shape ", ShapeText(info.shape), ", the configuration says ", ShapeText(shape)));
  }
  const char* data = data_.data() + info.begin;
  const size_t size_bytes = static_cast<size_t>(info.end - info.begin);
  if (info.dtype == "F32") {
    if (size_bytes > 0) std::memcpy(out, data, size_bytes);
    return absl::OkStatus();
  }
  if (info.dtype != "F16" && info.dtype != "BF16") {
    return invalid(absl::StrCat("has dtype ", info.dtype, ", only F32, F16 and BF16 can be read"));
  }
  // In pieces, since the file need not keep its tensors aligned.
  uint16_t piece[4096];
  for (size_t done = 0; done < size_bytes;) {
    const size_t now = std::min(sizeof(piece), size_bytes - done);
    std::memcpy(piece, data + done, now);
    (info.dtype == "F16" ? Float16ToFloat32 : Bfloat16ToFloat32)(piece, out + done / 2, now / 2);
    done += now;
  }
  return absl::OkStatus();
}

}  // namespace loci
