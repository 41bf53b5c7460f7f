#!/usr/bin/env bash
# Fetches the source of FAISS 1.7.3 from Debian's source package and unpacks it to ${XDG_CACHE_HOME:-$HOME/.cache}/loci/faiss-1.7.3.
# The binary package is built without AVX and is 2 to 9 times slower, so Loci compiles its own (deploy/bazel/faiss.BUILD).
# A private apt configuration is used: the machine's own sources and package lists stay as they are, and no root is needed.
# Does nothing when the folder is there.
set -euo pipefail

version=1.7.3
orig_sha256=3e4fac26d8c9e9008ecea4ae5fc414c658998fce4ba75835058b1a71d3516002
cache=${XDG_CACHE_HOME:-$HOME/.cache}/loci
dest=$cache/faiss-$version
[ -f "$dest/.complete" ] && exit 0

die() { echo "fetch_faiss: $*" >&2; exit 1; }
for tool in apt-get dpkg-source sha256sum; do
  command -v "$tool" >/dev/null || die "$tool is missing; run deploy/setup.sh"
done

mkdir -p "$cache"
work=$(mktemp -d "$cache/faiss.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work"/{lists/partial,archives/partial,sources,src}

# The machine's Debian sources, in both forms, with deb-src in place of deb. Other vendors' sources are left out.
codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-bookworm}")
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  [ -f "$list" ] || continue
  sed -nE "s/^[[:space:]]*deb(-src)?[[:space:]]+(\[[^]]*\][[:space:]]+)?([^[:space:]]+[[:space:]]+($codename|stable)[[:space:]])/deb-src \2\3/p" "$list"
done | sort -u > "$work/sources/machine.list"
for stanzas in /etc/apt/sources.list.d/*.sources; do
  [ -f "$stanzas" ] || continue
  # One record a stanza; comment lines go first, since a comment may stand inside a stanza.
  sed '/^#/d' "$stanzas" | awk -v RS= -v suite="$codename" '
    $0 ~ "(^|\n)Suites:([^\n]*[ \t])?(" suite "|stable)([ \t\n]|$)" && $0 !~ /(^|\n)Enabled:[ \t]*no/ {
      sub(/(^|\n)Types:[^\n]*/, "\nTypes: deb-src"); sub(/^\n/, ""); print $0 "\n" }'
done > "$work/sources/machine.sources"
[ -s "$work/sources/machine.list" ] || [ -s "$work/sources/machine.sources" ] ||
  die "no Debian '$codename' source found in /etc/apt/sources.list or /etc/apt/sources.list.d"

apt=(apt-get -qq -o Dir::Etc::SourceList=/dev/null -o "Dir::Etc::SourceParts=$work/sources"
     -o "Dir::State::Lists=$work/lists" -o "Dir::Cache=$work" -o "Dir::Cache::Archives=$work/archives"
     -o APT::Sandbox::User= -o Acquire::Languages=none -o Acquire::Retries=3)
"${apt[@]}" update >&2 || die "could not read Debian's source index; is this machine online?"
(cd "$work/src" && "${apt[@]}" source --download-only faiss >&2) || die "could not download the faiss source package"

dsc=$(echo "$work"/src/faiss_"$version"*.dsc)
[ -f "$dsc" ] || die "Debian offers $(cd "$work/src" && echo *.dsc), version $version is needed"
orig=$(echo "$work"/src/faiss_"$version".orig.tar.*)
if ! echo "$orig_sha256  $orig" | sha256sum --check --status; then
  die "$(basename "$orig") has sha256 $(sha256sum "$orig" | cut -d' ' -f1), expected $orig_sha256"
fi
dpkg-source --no-check -x "$dsc" "$work/tree" >/dev/null 2>"$work/log" || { cat "$work/log" >&2; die "could not unpack $dsc"; }
touch "$work/tree/.complete"
rm -rf "$dest"
mv -T "$work/tree" "$dest"
echo "fetch_faiss: FAISS $version is in $dest"
