#!/usr/bin/env bash
# Installs a package into a bare Debian 12 root, serves from it as its own user, upgrades, removes and purges it. See --help.
set -euo pipefail

usage() {
  cat <<'USAGE'
usage: deploy/debian/install_test.sh PACKAGE.deb MODEL_DIR

In a new root (in $TMPDIR, removed at the end): dpkg -i, apt-get install -f for what it depends on, the programs' versions, the server as
user loci with the model, a question through the command line, an HTML and a PDF file, what the service manager is told, SIGTERM, dpkg -i
again, dpkg -r (data stays) and dpkg -P (data goes), and lintian over the package. Needs root, mmdebstrap and Debian's archive; fails at
the first thing that is not as it should be.
USAGE
}

die() { echo "install_test: $*" >&2; exit 1; }
case ${1:-} in -h|--help) usage; exit 0 ;; esac
[ $# = 2 ] || { usage >&2; exit 2; }
package=$(realpath "$1") model=$(realpath "$2")
[ -f "$package" ] || die "no package $1"
[ -f "$model/model.safetensors" ] || die "no model.safetensors in $2"
[ "$(id -u)" = 0 ] || die "must run as root"
command -v mmdebstrap >/dev/null || die "mmdebstrap is missing; run: apt-get install mmdebstrap"

root=$(mktemp -d "${TMPDIR:-/var/tmp}/loci_install.XXXXXX")
cleanup() {
  # What a failed step left running there.
  for p in /proc/[0-9]*; do [ "$(readlink "$p/root" 2>/dev/null)" != "$root" ] || kill -KILL "${p#/proc/}" 2>/dev/null || true; done
  for m in dev sys proc; do ! mountpoint -q "$root/$m" || umount -l "$root/$m"; done
  rm -rf --one-file-system "$root"
}
trap cleanup EXIT
mirror=$(apt-get indextargets --format "\$(SITE)" 'Created-By: Packages' 'Codename: bookworm' | sort | uniq -c | sort -rn | awk 'NR==1{print $2}')
mmdebstrap --quiet --variant=minbase --mode=root --include=ca-certificates bookworm "$root" \
  "deb ${mirror:-http://deb.debian.org/debian} bookworm main"
for m in proc sys dev; do mount --bind "/$m" "$root/$m"; done
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt" 2>/dev/null || true
cp "$package" "$root/tmp/loci.deb"
cat > "$root/tmp/test.sh" <<'INSIDE'
set -eu
export DEBIAN_FRONTEND=noninteractive
step() { echo "== $*"; }
apt_get() { apt-get -qq -o Dpkg::Use-Pty=0 "$@" >/tmp/apt.log 2>&1 || { tail -n 20 /tmp/apt.log; exit 1; }; }

step "dpkg -i, then what it depends on"
dpkg -i /tmp/loci.deb >/tmp/dpkg.log 2>&1 || true  # Unmet dependencies: that is what is mended next.
apt_get update
apt_get -f install -y --no-install-recommends
dpkg-query -W -f='${Package} ${Version} ${db:Status-Status}\n' loci | tee /tmp/state
grep -q ' installed$' /tmp/state
step "the user and its folder"
getent passwd loci
stat -c '%U:%G %a %n' /var/lib/loci | tee /tmp/state
grep -qx 'loci:loci 750 /var/lib/loci' /tmp/state
step "versions"
loci --version
loci_server --version
step "without a model: a clear error, exit 1"
as_loci() { setpriv --reuid=loci --regid=loci --clear-groups --no-new-privs -- "$@"; }
. /etc/loci/loci.env
rc=0; as_loci loci_server $LOCI_OPTIONS 2>/tmp/error || rc=$?
tail -n 1 /tmp/error
[ $rc = 1 ] && grep -q 'no model in /var/lib/loci' /tmp/error

step "the server as user loci, as the unit starts it"
mkdir -p /var/lib/loci/models
cp -r /tmp/model /var/lib/loci/models/all-MiniLM-L6-v2
chmod -R a+rX /var/lib/loci/models
serve() {
  # Not by as_loci: a function in the background is a shell, which would get the signal.
  setpriv --reuid=loci --regid=loci --clear-groups --no-new-privs -- loci_server $LOCI_OPTIONS --listen 127.0.0.1:0 --metrics-listen 127.0.0.1:0 >/tmp/out 2>/tmp/err &
  pid=$!
  for _ in $(seq 120); do
    grep -q '^listening on' /tmp/out && break
    kill -0 $pid 2>/dev/null || { cat /tmp/err; exit 1; }
    sleep 0.5
  done
  LOCI_SERVER=$(sed -n 's/^listening on //p' /tmp/out)
  export LOCI_SERVER
}
stop() { rc=0; kill -TERM $pid; wait $pid || rc=$?; echo "SIGTERM: exit $rc"; [ $rc = 0 ]; }
serve
loci get server
echo '{"id": "1", "title": "Radium", "text": "Marie Curie discovered radium in 1898."}' > /tmp/p.jsonl
loci ingest facts /tmp/p.jsonl
loci ask facts "who discovered radium?" | tee /tmp/answer
grep -q 'Marie Curie' /tmp/answer
step "documents: HTML by libxml2, PDF by poppler-utils, which is but recommended"
mkdir -p /tmp/documents
echo '<html><body><h1>Polonium</h1><p>Polonium is named after Poland.</p></body></html>' > /tmp/documents/polonium.html
loci ingest documents /tmp/documents
loci search documents "polonium" --top-k 1 | grep -q Poland
mv /tmp/radon.pdf /tmp/documents/
rc=0; loci ingest documents /tmp/documents/radon.pdf >/tmp/error 2>&1 || rc=$?
cat /tmp/error
[ $rc != 0 ] && grep -q poppler-utils /tmp/error
apt_get install -y --no-install-recommends poppler-utils
loci ingest documents /tmp/documents
loci search documents "radon" --top-k 1 | grep -q 'noble gas'
stop
stat -c '%U %n' /var/lib/loci/stores
step "the service manager is told when it can answer (Type=notify), and when it stops"
perl -MIO::Socket::UNIX -e '
  my $socket = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "/tmp/notify") or die "no socket: $!";
  chmod 0777, "/tmp/notify";
  open(my $out, ">>", "/tmp/notified"); $out->autoflush(1);
  while (1) { $socket->recv(my $message, 4096) // last; print $out "$message\n"; }' &
listener=$!
for _ in $(seq 50); do [ ! -S /tmp/notify ] || break; sleep 0.1; done
export NOTIFY_SOCKET=/tmp/notify
serve
for _ in $(seq 50); do ! grep -qs '^READY=1' /tmp/notified || break; sleep 0.1; done
stop
unset NOTIFY_SOCKET
for _ in $(seq 50); do ! grep -qs '^STOPPING=1' /tmp/notified || break; sleep 0.1; done
kill $listener
cat /tmp/notified
grep -q '^READY=1' /tmp/notified && grep -q '^STOPPING=1' /tmp/notified
step "installed again (an upgrade): settings and data stay"
echo '# mine' >> /etc/loci/loci.env
dpkg -i /tmp/loci.deb >/tmp/dpkg.log 2>&1 || { cat /tmp/dpkg.log; exit 1; }
grep -qx '# mine' /etc/loci/loci.env
serve; loci get stores; stop
step "dpkg -r: programs go, data and settings stay"
dpkg -r loci
[ ! -e /usr/bin/loci_server ] && [ -d /var/lib/loci/stores ] && [ -f /etc/loci/loci.env ]
step "dpkg -P: all goes"
dpkg -P loci
left=$(find /var/lib/loci /etc/loci /usr/share/doc/loci /lib/systemd/system/loci.service /etc/systemd/system -name '*loci*' 2>/dev/null || true)
[ -z "$left" ] || { echo "left behind: $left"; exit 1; }
step "lintian"
apt_get install -y --no-install-recommends lintian
lintian --version
lintian --tag-display-limit 0 --display-info --show-overrides --fail-on error,warning /tmp/loci.deb
step "all as it should be"
INSIDE
cp -r "$model" "$root/tmp/model"
# The smallest file that pdftotext takes; it mends the missing table of offsets.
cat > "$root/tmp/radon.pdf" <<'PDF'
%PDF-1.4
1 0 obj <</Type /Catalog /Pages 2 0 R>> endobj
2 0 obj <</Type /Pages /Kids [3 0 R] /Count 1>> endobj
3 0 obj <</Type /Page /Parent 2 0 R /MediaBox [0 0 600 200] /Contents 4 0 R /Resources <</Font <</F1 5 0 R>>>>>> endobj
4 0 obj <</Length 55>> stream
BT /F1 18 Tf 20 100 Td (Radon is a noble gas.) Tj ET
endstream endobj
5 0 obj <</Type /Font /Subtype /Type1 /BaseFont /Helvetica>> endobj
trailer <</Root 1 0 R>>
%%EOF
PDF
env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin chroot "$root" sh /tmp/test.sh
