#include "index/rocksdb_util.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/strings.h"
#include "rocksdb/env.h"
#include "rocksdb/status.h"

namespace loci {
namespace {

class SilentLogger : public rocksdb::Logger {
 public:
  SilentLogger() : rocksdb::Logger(rocksdb::InfoLogLevel::FATAL_LEVEL) {}
  using rocksdb::Logger::Logv;
  void Logv(const char*, va_list) override {}
};

}  // namespace

absl::Status FromRocksDb(const rocksdb::Status& status, std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string text = status.ToString();
  const std::string message = absl::StrCat(AbslView(what), ": ", text);
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsNotFound()) return absl::NotFoundError(message);
  // RocksDB has no code of its own for a folder that another handle has open.
  if (status.IsIOError() && (text.find("lock hold by") != std::string::npos || text.find("While lock file") != std::string::npos)) {
    return absl::FailedPreconditionError(message);
  }
  return absl::InternalError(message);
}

std::shared_ptr<rocksdb::Logger> SilentRocksDbLogger() {
  static auto* const logger = new std::shared_ptr<rocksdb::Logger>(std::make_shared<SilentLogger>());
  return *logger;
}

}  // namespace loci
