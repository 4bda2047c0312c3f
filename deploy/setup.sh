#!/bin/sh
# The virtual environment .venv and, when missing, bubblewrap, nftables and venv from the system's packages;
# with `tests` also what the tests start.
set -eu
cd "$(dirname "$0")/.."
python="${PYTHON:-python3}"

fail() {
	echo "setup: $1" >&2
	exit 1
}

command -v "$python" >/dev/null || fail "$python is not installed; Runmesh needs Python 3.11 or newer"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "$("$python" --version) is too old; Runmesh needs 3.11 or newer"

missing=""
command -v bwrap >/dev/null || missing="$missing bubblewrap"
command -v nft >/dev/null || [ -x /usr/sbin/nft ] || missing="$missing nftables"
"$python" -c 'import ensurepip' 2>/dev/null || missing="$missing python3-venv"
if [ "${1:-}" = tests ]; then # what the tests start besides
	command -v node >/dev/null || missing="$missing nodejs"
	command -v npm >/dev/null || missing="$missing npm"
	command -v openssl >/dev/null || missing="$missing openssl"
	command -v pgrep >/dev/null || missing="$missing procps"
	command -v strace >/dev/null || missing="$missing strace"
	command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="$missing postgresql"
	command -v redis-server >/dev/null || missing="$missing redis-server"
	[ -e /usr/include/asm-generic/unistd.h ] || missing="$missing linux-libc-dev"
fi
if [ -n "$missing" ]; then
	command -v apt-get >/dev/null || fail "please install:$missing"
	sudo=""
	[ "$(id -u)" = 0 ] || sudo="sudo -n"
	echo "setup: installing$missing" >&2
	own_cluster=/etc/postgresql-common/createcluster.d/runmesh-setup.conf
	case "$missing" in
	*" postgresql"*) # its programs are wanted, not a server of the system's own
		$sudo mkdir -p "${own_cluster%/*}"
		echo "create_main_cluster = false" | $sudo tee "$own_cluster" >/dev/null
		;;
	esac
	# shellcheck disable=SC2086
	{ $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $missing; } >/dev/null 2>&1 ||
		{ $sudo rm -f "$own_cluster"; fail "could not install$missing; run: apt-get install$missing"; }
	$sudo rm -f "$own_cluster"
fi

optional() { # package, what isn't tested without it: not every system has it
	sudo=""
	[ "$(id -u)" = 0 ] || sudo="sudo -n"
	{ $sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "$1"; } >/dev/null 2>&1 ||
		echo "setup: no $1 can be had: the tests of $2 are skipped" >&2
}
if [ "${1:-}" = tests ]; then
	command -v runsc >/dev/null || optional runsc gVisor
	[ -x /usr/lib/chromium/chromium-headless-shell ] || optional chromium-headless-shell browsers
	[ -x /usr/lib/chromium/chromium ] || optional chromium "the extension for browsers"
fi

echo "setup: filling .venv, once; this takes up to a minute" >&2
# A .venv without pip is what an interrupted set-up leaves, or a Debian without python3-venv.
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv ||
	fail "could not make .venv; on Debian: apt-get install python3-venv"
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.13,<0.14"
# Only what runs is compiled now: the tools for tests would take as long again.
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --editable .
.venv/bin/uv pip install --quiet --python .venv/bin/python --editable ".[dev]"
