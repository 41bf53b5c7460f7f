#include "clients/cli/text_table.h"

#include <algorithm>
#include <utility>

#include "clients/cli/display.h"

namespace loci {
namespace {

constexpr int kGap = 3;        // Blanks between columns.
constexpr int kMinShrunk = 8;  // A column does not give way below this.

}  // namespace

TextTable::TextTable(std::vector<Column> columns) : columns_(std::move(columns)) {}

void TextTable::AddRow(const std::vector<std::string>& cells) {
  std::vector<std::string>& row = rows_.emplace_back(columns_.size());
  for (size_t i = 0; i < columns_.size() && i < cells.size(); ++i) {
    row[i] = SanitizeLine(cells[i]);
    if (columns_[i].max_width > 0) row[i] = CutToWidth(row[i], columns_[i].max_width);
  }
}

std::string TextTable::Render(int terminal_width) const {
  std::vector<int> widths;
  int total = kGap * (static_cast<int>(columns_.size()) - 1);
  for (size_t i = 0; i < columns_.size(); ++i) {
    int width = DisplayWidth(columns_[i].heading);
    for (const auto& row : rows_) width = std::max(width, DisplayWidth(row[i]));
    widths.push_back(width);
    total += width;
  }
  while (terminal_width > 0 && total > terminal_width) {
    // Names and figures stay whole: half a generation's name is of no use.
    int* widest = nullptr;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (columns_[i].max_width > 0 && widths[i] > kMinShrunk && (widest == nullptr || widths[i] > *widest)) widest = &widths[i];
    }
    if (widest == nullptr) break;
    // Down to the second widest in one step would need care with ties; one column at a time is quick enough for a screen.
    --*widest;
    --total;
  }

  std::string text;
  const auto add_line = [&](const auto& cell_of) {
    std::string line;
    for (size_t i = 0; i < columns_.size(); ++i) {
      const std::string cell = CutToWidth(cell_of(i), widths[i]);
      const std::string padding(std::max(0, widths[i] - DisplayWidth(cell)), ' ');
      if (i > 0) line.append(kGap, ' ');
      line += columns_[i].alignment == kRight ? padding + cell : cell + padding;
    }
    line.erase(line.find_last_not_of(' ') + 1);
    text += line + '\n';
  };
  add_line([&](size_t i) -> const std::string& { return columns_[i].heading; });
  for (const auto& row : rows_) add_line([&](size_t i) -> const std::string& { return row[i]; });
  return text;
}

}  // namespace loci
