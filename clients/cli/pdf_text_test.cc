#include "clients/cli/pdf_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "clients/cli/child_process.h"
#include "clients/cli/input_testing.h"

namespace loci {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A PDF of these pages, each given by the operators that draw it.
std::string MakePdf(const std::vector<std::string>& pages, const std::string& trailer_extra = "") {
  std::string pdf = "%PDF-1.4\n", kids;
  std::vector<size_t> offsets;
  const auto add = [&](const std::string& object) {
    offsets.push_back(pdf.size());
    pdf += std::to_string(offsets.size()) + " 0 obj\n" + object + "\nendobj\n";
  };
  for (size_t i = 0; i < pages.size(); ++i) kids += std::to_string(4 + 2 * i) + " 0 R ";
  add("<< /Type /Catalog /Pages 2 0 R >>");
  add("<< /Type /Pages /Count " + std::to_string(pages.size()) + " /Kids [" + kids + "] >>");
  add("<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>");
  for (const std::string& page : pages) {
    add("<< /Type /Page /Parent 2 0 R /MediaBox [0 0 600 800] /Resources << /Font << /F 3 0 R >> >> /Contents " +
        std::to_string(offsets.size() + 2) + " 0 R >>");
    const std::string stream = Deflate(page, 15, 4);
    add("<< /Filter /FlateDecode /Length " + std::to_string(stream.size()) + " >>\nstream\n" + stream + "\nendstream");
  }
  const size_t xref = pdf.size();
  pdf += "xref\n0 " + std::to_string(offsets.size() + 1) + "\n0000000000 65535 f \n";
  for (const size_t offset : offsets) {
    const std::string digits = std::to_string(offset);
    pdf += std::string(10 - digits.size(), '0') + digits + " 00000 n \n";
  }
  return pdf + "trailer\n<< /Size " + std::to_string(offsets.size() + 1) + " /Root 1 0 R " + trailer_extra + " >>\nstartxref\n" +
         std::to_string(xref) + "\n%%EOF\n";
}
std::string Line(const std::string& text, int y) { return "BT /F 12 Tf 50 " + std::to_string(y) + " Td (" + text + ") Tj ET\n"; }

class PdfTextTest : public InputFilesTest {
 protected:
  PdfTextTest() {
    if (!CheckPdfToText().ok()) ADD_FAILURE() << "poppler-utils is not installed; deploy/setup.sh does it";
  }
  std::string Message(const std::string& pdf, const PdfLimits& limits = {}) {
    Document document;
    const absl::Status status = ReadPdf(Write("x.pdf", pdf), &document, limits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    return std::string(status.message());
  }
};

TEST_F(PdfTextTest, EachPageWithTextIsASectionWithItsNumber) {
  Document document;
  const std::string pdf = MakePdf({Line("First page,", 700) + Line("two lines.", 680), "", Line("Third \\(last\\) page.", 700)});
  ASSERT_TRUE(ReadPdf(Write("-dash.pdf", pdf), &document).ok());
  ASSERT_EQ(document.sections.size(), 2u);
  const auto text = [&](size_t i) {
    return document.text.substr(document.sections[i].start_byte, document.sections[i].end_byte - document.sections[i].start_byte);
  };
  EXPECT_EQ(text(0), "First page,\ntwo lines.");
  EXPECT_EQ(document.sections[0].page, 1);
  EXPECT_EQ(text(1), "Third (last) page.");
  EXPECT_EQ(document.sections[1].page, 3);
  Document zipped;
  ASSERT_TRUE(ReadPdf(Write("a.pdf.gz", Deflate(pdf, 15 + 16)), &zipped).ok());
  EXPECT_EQ(zipped.text, document.text);
  Document blank;
  EXPECT_TRUE(ReadPdf(Write("blank.pdf", MakePdf({"", ""})), &blank).ok());
  EXPECT_TRUE(blank.sections.empty());
}

TEST_F(PdfTextTest, DamagedAndEncryptedFilesAreToldInPopplersWords) {
  EXPECT_THAT(Message("this is no PDF"), HasSubstr("May not be a PDF file"));
  EXPECT_THAT(Message(""), HasSubstr("pdftotext can't read it"));
  EXPECT_THAT(Message(MakePdf({Line("text", 700)}).substr(0, 100)), HasSubstr("pdftotext can't read it: Syntax"));
  const std::string junk(32, 'x');
  EXPECT_THAT(Message(MakePdf({Line("secret", 700)}, "/ID [<00> <00>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O (" + junk + ") /U (" +
                                                         junk + ") >>")),
              HasSubstr("Incorrect password"));
  Document document;
  EXPECT_EQ(ReadPdf(directory_ + "/absent.pdf", &document).code(), absl::StatusCode::kNotFound);
}

TEST_F(PdfTextTest, ABombMeetsALimitAndMemoryStaysThere) {
  // 200 MB of text in one page, in a file of less than 4 MB: pdftotext keeps all of a page.
  std::string lines, page = "BT /F 5 Tf\n";
  for (int y = 20; y < 790; y += 13) lines += "1 0 0 1 10 " + std::to_string(y) + " Tm (some words that are drawn again and again) Tj\n";
  while (page.size() < (200 << 20)) page += lines;
  const std::string bomb = MakePdf({page + "ET"});
  page = std::string();
  EXPECT_LT(bomb.size(), 4u << 20);
  PdfLimits limits;
  limits.max_address_space_bytes = 160 << 20;
  const auto start = std::chrono::steady_clock::now();
  EXPECT_THAT(Message(bomb, limits), HasSubstr("memory"));
  limits.max_address_space_bytes = uint64_t{1} << 30;
  limits.max_cpu_seconds = 1;
  limits.max_time = std::chrono::seconds(20);
  EXPECT_THAT(Message(bomb, limits), ::testing::AnyOf(HasSubstr("more than 1 s of CPU time"), HasSubstr("memory")));
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST_F(PdfTextTest, TextBeyondTheLimitIsRefusedAndSoIsAFileThatUnpacksTooFar) {
  std::vector<std::string> pages(50, Line(std::string(400, 'b'), 700));
  PdfLimits limits;
  limits.max_text_bytes = 1'000;
  EXPECT_THAT(Message(MakePdf(pages), limits), HasSubstr("more than 1000 bytes of text, the limit"));
  limits.max_unpacked_bytes = 5'000;
  EXPECT_THAT(Message(Deflate(std::string(1 << 20, ' '), 15 + 16), limits), HasSubstr("more than 5000 bytes"));
}

TEST_F(PdfTextTest, WithoutPdftotextThePackageIsNamed) {
  const std::string path = std::getenv("PATH");
  setenv("PATH", directory_.c_str(), 1);
  Document document;
  const absl::Status status = ReadPdf(Write("a.pdf", MakePdf({Line("text", 700)})), &document);
  const absl::Status check = CheckPdfToText();
  setenv("PATH", path.c_str(), 1);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("poppler-utils"));
  EXPECT_EQ(check, status);
}

TEST(ChildProcessTest, LimitsAndEndsAreTold) {
  ChildLimits limits;
  limits.max_address_space_bytes = uint64_t{1} << 30;
  limits.max_cpu_seconds = 10;
  limits.max_time = std::chrono::seconds(10);
  limits.max_output_bytes = 100;
  const auto run = [&](const std::string& script) { return *RunChild({"sh", "-c", script}, 0, limits); };
  const ChildResult fine = run("echo out; echo err >&2; exit 3");
  EXPECT_EQ(fine.end, ChildResult::kExited);
  EXPECT_EQ(fine.code, 3);
  EXPECT_EQ(fine.output, "out\n");
  EXPECT_EQ(fine.errors, "err\n");
  EXPECT_EQ(run("kill -9 $$").end, ChildResult::kSignalled);
  EXPECT_EQ(run("kill -9 $$").code, 9);
  EXPECT_EQ(run("ls /proc/self/fd | wc -l").output, "4\n");  // Of ls: 0 to 2 and the folder.
  EXPECT_EQ(run("env | grep -c -v -e ^PATH= -e ^LC_ALL= -e ^PWD= -e ^_= -e ^SHLVL=").output, "0\n");
  const ChildResult endless = run("while :; do echo yes; done");
  EXPECT_EQ(endless.end, ChildResult::kTooMuchOutput);
  EXPECT_EQ(endless.output.size(), 100u);
  limits.max_cpu_seconds = 1;
  EXPECT_EQ(run("while :; do :; done").code, SIGXCPU);
  limits.max_time = std::chrono::milliseconds(100);
  EXPECT_EQ(run("sleep 60").end, ChildResult::kTooLong);
  EXPECT_EQ(run("exec >&- 2>&-; sleep 60").end, ChildResult::kTooLong);
  EXPECT_TRUE(absl::IsNotFound(RunChild({"no-such-program-here"}, 0, limits).status()));
}

ChildLimits WideLimits() {
  ChildLimits limits;
  limits.max_address_space_bytes = uint64_t{1} << 30;
  limits.max_cpu_seconds = 100;
  limits.max_time = std::chrono::minutes(10);
  limits.max_output_bytes = 100;
  return limits;
}

TEST(ChildProcessTest, AnInterruptEndsItAtOnce) {
  InputInterrupt cancelled(0);
  std::thread other([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    cancelled.Trigger();
  });
  EXPECT_TRUE(absl::IsCancelled(RunChild({"sleep", "600"}, 0, WideLimits(), &cancelled).status()));
  other.join();
  InputInterrupt late(50);
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunChild({"sleep", "600"}, 0, WideLimits(), &late).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(RunChild({"sh", "-c", "exec >&- 2>&-; sleep 600"}, 0, WideLimits(), &late).status()));
  InputInterrupt none(0);
  EXPECT_EQ(RunChild({"sh", "-c", "exit 3"}, 0, WideLimits(), &none)->code, 3);
}

TEST(ChildProcessTest, ItDoesNotOutliveWhoeverStartedIt) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t starter = fork();
  if (starter == 0) {
    // The child's number goes by a pipe that it has by its standard input.
    const absl::StatusOr<ChildResult> result = RunChild({"sh", "-c", "echo $$ >&0; exec sleep 600"}, ends[1], WideLimits());
    _exit(result.ok() ? 0 : 1);
  }
  close(ends[1]);
  char digits[16] = {};
  ASSERT_GT(read(ends[0], digits, sizeof(digits) - 1), 0);
  const pid_t child = static_cast<pid_t>(std::atoi(digits));
  ASSERT_GT(child, 1);
  EXPECT_EQ(kill(child, 0), 0);
  kill(starter, SIGKILL);
  EXPECT_EQ(waitpid(starter, nullptr, 0), starter);
  // The pipe ends when nobody has its other end.
  EXPECT_EQ(read(ends[0], digits, sizeof(digits)), 0);
  close(ends[0]);
}

}  // namespace
}  // namespace loci
