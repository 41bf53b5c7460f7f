// Aligned columns, in the way of kubectl's.
//
//   TextTable table({{"RANK", TextTable::kRight}, {"ID"}, {"TEXT", TextTable::kLeft, /*max_width=*/120}});
//   table.AddRow({"1", "p7", "It is blue."});
//   out << table.Render(terminal_width);
#ifndef LOCI_CLIENTS_CLI_TEXT_TABLE_H_
#define LOCI_CLIENTS_CLI_TEXT_TABLE_H_

#include <string>
#include <string_view>
#include <vector>

namespace loci {

// Cells are sanitized (SanitizeLine), so that no content can break the layout or drive the terminal. Used by one thread: its owner.
class TextTable {
 public:
  enum Alignment { kLeft, kRight };
  struct Column {
    std::string heading;
    Alignment alignment = kLeft;
    int max_width = 0;  // Longer cells are cut, and the column gives way on a narrow terminal; 0 means never.
  };

  explicit TextTable(std::vector<Column> columns);

  // Missing cells are empty, surplus ones dropped.
  void AddRow(const std::vector<std::string>& cells);
  bool empty() const { return rows_.empty(); }

  // Heading and rows, each line ended by '\n' and without blanks at its end. Where `terminal_width` is not 0 the columns with a max_width
  // give way to it, the widest first, down to 8; what is still too wide is left to the terminal to wrap.
  std::string Render(int terminal_width) const;

 private:
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_TEXT_TABLE_H_
