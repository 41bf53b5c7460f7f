// What --help of the commands that take input says about it.
#ifndef LOCI_CLIENTS_CLI_INPUT_DETAILS_H_
#define LOCI_CLIENTS_CLI_INPUT_DETAILS_H_

namespace loci {

inline constexpr char kInputDetails[] =
    "FILE is a file, a folder, or - for standard input; each may be compressed by gzip or zstd.\n"
    "  jsonl  one object a line: {\"id\" or \"_id\", \"title\", \"text\", \"metadata\": {...}, \"document_id\", \"chunk_index\", "
    "\"vector\"}\n"
    "  tsv    id<TAB>text<TAB>title (DPR's), with or without a header, quoted as Python's csv.QUOTE_MINIMAL\n"
    "  beir   a BEIR corpus.jsonl, or the folder that holds it\n"
    "  auto   by the file's name, else by its first line; of a folder its corpus.jsonl, else its JSONL and TSV files, else its documents\n"
    "Lines that cannot be read are reported with file and line number (the first 20 in full), the others are taken, and\n"
    "the exit code is 1 unless --skip-errors is given. Where the input itself fails (a damaged compressed file), nothing is taken.\n";

}  // namespace loci

#endif  // LOCI_CLIENTS_CLI_INPUT_DETAILS_H_
