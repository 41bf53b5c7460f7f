#!/usr/bin/env bash
# Makes loci_VERSION_amd64.deb. See --help.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)

usage() {
  cat <<'USAGE'
usage: deploy/debian/build_package.sh [--bin DIR] [--out DIR]

Makes loci_VERSION_amd64.deb of server/version.h's version, and prints its path.
  --bin DIR   a bazel-bin folder that has server/loci_server and clients/cli/loci; without it they are built first
  --out DIR   where the package goes (default: the current folder)
The environment's LOCI_MAINTAINER ("Name <address>") replaces the maintainer's name. One commit gives the same package, bit for bit, from
the same binaries.
USAGE
}

die() { echo "build_package: $*" >&2; exit 1; }
say() { echo "build_package: $*" >&2; }

bin='' out=$PWD
while [ $# -gt 0 ]; do
  case $1 in
    --bin) [ $# -ge 2 ] || die "--bin needs a folder"; bin=$2; shift 2 ;;
    --out) [ $# -ge 2 ] || die "--out needs a folder"; out=$2; shift 2 ;;
    -h|--help) usage; exit 0 ;;
    *) echo "build_package: unknown argument '$1'" >&2; usage >&2; exit 2 ;;
  esac
done
for tool in dpkg-deb dpkg-shlibdeps strip gzip; do
  command -v "$tool" >/dev/null || die "$tool is missing; as root run: apt-get install dpkg-dev binutils gzip"
done

if [ -z "$bin" ]; then
  (cd "$root" && bazel build //server:loci_server //clients/cli:loci) >&2
  bin=$root/bazel-bin
fi
server=$bin/server/loci_server cli=$bin/clients/cli/loci
for file in "$server" "$cli"; do [ -x "$file" ] || die "no program $file"; done
mkdir -p "$out"

version=$(sed -n 's/.*kVersion\[\] = "\([^"]*\)".*/\1/p' "$root/server/version.h")
[[ $version =~ ^[0-9][0-9A-Za-z.+~]*$ ]] || die "server/version.h has no version that a package may have: '$version'"
[ "$("$server" --version)" = "loci_server $version" ] || die "$server is not of version $version: $("$server" --version)"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || stat -c %Y "$root/server/version.h")}
export SOURCE_DATE_EPOCH
maintainer=${LOCI_MAINTAINER:-Loci Maintainers <maintainers@loci.invalid>}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stage=$work/loci
umask 022
put() { install -D -m "$1" "$2" "$stage/$3"; }  # MODE FILE PLACE
pack() { gzip -9nc > "$stage/$1"; chmod 644 "$stage/$1"; }

put 755 "$server" usr/bin/loci_server
put 755 "$cli" usr/bin/loci
strip --strip-unneeded --remove-section=.comment --remove-section=.note "$stage"/usr/bin/*
put 644 "$root/deploy/systemd/loci.service" lib/systemd/system/loci.service
put 644 "$root/deploy/systemd/loci.env" etc/loci/loci.env
doc=usr/share/doc/loci
put 644 "$root/README.md" $doc/README.md
put 644 "$root/deploy/debian/copyright" $doc/copyright
for file in "$root"/deploy/examples/*.textproto "$root"/deploy/grafana/*.json; do
  [ -f "$file" ] && put 644 "$file" "$doc/examples/${file##*/}"
done
printf 'loci (%s) bookworm; urgency=medium\n\n  * Version %s.\n\n -- %s  %s\n' "$version" "$version" "$maintainer" \
  "$(LC_ALL=C date -u -R -d "@$SOURCE_DATE_EPOCH")" | pack $doc/changelog.gz
[ -f "$root/deploy/debian/lintian-overrides" ] && put 644 "$root/deploy/debian/lintian-overrides" usr/share/lintian/overrides/loci

# What this build of the CLI can generate.
if "$cli" completion bash >"$work/bash" 2>/dev/null && [ -s "$work/bash" ]; then
  put 644 "$work/bash" usr/share/bash-completion/completions/loci
  "$cli" completion zsh >"$work/zsh" && put 644 "$work/zsh" usr/share/zsh/vendor-completions/_loci
else
  say "this loci has no 'completion' command: no shell completion in the package"
fi
# A manual page of what a program's --help says: manual PROGRAM SECTION.
manual() {
  local text
  text=$("$1" --help)
  printf '.TH %s %s %s "Loci %s"\n.SH NAME\n%s \\- %s\n.SH DESCRIPTION\n.nf\n' "${1##*/}" "$2" \
    "$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)" "$version" "${1##*/}" "$(sed -n '1s/^[a-z_]*: //; 1s/\.$//; 1p' <<<"$text")"
  # Verbatim: no escape, no hyphen that is not a minus, no line that is a request.
  sed -e '1d' -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^[.']/\\\\\&&/" <<<"$text"
  printf '.fi\n'
}
mkdir -p "$stage"/usr/share/man/man{1,8}
manual "$server" 8 | pack usr/share/man/man8/loci_server.8.gz
if "$cli" man >"$work/man" 2>/dev/null && [ -s "$work/man" ]; then
  pack usr/share/man/man1/loci.1.gz <"$work/man"
else
  say "this loci has no 'man' command: its manual page is its --help"
  manual "$cli" 1 | pack usr/share/man/man1/loci.1.gz
fi

control=$stage/DEBIAN
mkdir -p "$control"
for script in postinst prerm postrm; do put 755 "$root/deploy/debian/$script" DEBIAN/$script; done
echo /etc/loci/loci.env > "$control/conffiles"
# The packages of the shared libraries that the two programs name.
mkdir -p "$work/source/debian"
printf 'Source: loci\n\nPackage: loci\nArchitecture: amd64\n' > "$work/source/debian/control"
depends=$(cd "$work/source" && dpkg-shlibdeps -O -e"$stage/usr/bin/loci_server" -e"$stage/usr/bin/loci" 2>"$work/shlibdeps.log" |
  sed -n 's/^shlibs:Depends=//p') || { cat "$work/shlibdeps.log" >&2; die "dpkg-shlibdeps failed"; }
[ -n "$depends" ] || die "dpkg-shlibdeps found no library"
cat > "$control/control" <<CONTROL
Package: loci
Version: $version
Architecture: amd64
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$stage" | cut -f1)
Depends: adduser, init-system-helpers (>= 1.52), $depends
Recommends: poppler-utils
Section: net
Priority: optional
Description: retrieval-augmented model server
 Passages go in, a compact transformer encoder turns them into vectors, an
 exact or approximate index finds the ones that matter, and a reader answers
 with evidence, all behind one gRPC server whose knowledge is replaced while it
 serves.
 .
 The package has the server, its systemd service and the command line. It has
 no model: a BERT-family checkpoint belongs into
 /var/lib/loci/models/all-MiniLM-L6-v2. The processor must have AVX2
 (x86-64-v3).
CONTROL
(cd "$stage" && find . -path ./DEBIAN -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) > "$control/md5sums"
find "$stage" -type d -exec chmod 755 {} +
chmod 644 "$control"/{control,conffiles,md5sums}
package=$out/loci_${version}_amd64.deb
dpkg-deb --root-owner-group -Zxz --build "$stage" "$package" >/dev/null
echo "$package"
