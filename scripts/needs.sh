# shellcheck shell=bash
# What the verbs of ./dev need, and how it gets there; sourced by ./dev. On Debian the missing packages are installed
# with apt (as root, or with sudo); where that cannot be done the exact command is printed and the verb stops.

readonly build_packages=(g++ cmake ninja-build pkg-config nlohmann-json3-dev libfmt-dev libcli11-dev libyaml-cpp-dev
  libedit-dev liburing-dev libboost1.81-dev prometheus-cpp-dev libgtest-dev libbenchmark-dev librapidcheck-dev python3)
readonly rust_packages=(cargo-web rustc-web) # Debian 12's current Rust; its plain `cargo` is too old
readonly rust_least=1.87
readonly test_packages=(qemu-user) # runs the binary as other CPUs
readonly lint_packages=(git clang-format-14 shellcheck python3)
readonly tidy_packages=(clang-tidy-14)
readonly fuzz_packages=(clang-14 libclang-rt-14-dev)

python=python3
clang_format=clang-format-14

needs_say() { printf '%s\n' "dev: $*" >&2; }

# install NAME PACKAGE...: a stamp in build/ remembers that the packages are there, so a second run asks nobody.
install() {
  local name=$1 stamp missing=() package
  shift
  stamp=build/.needs/$name-$(printf '%s ' "$@" | cksum | cut -d ' ' -f 1)
  if [[ -e $stamp ]]; then return; fi
  mkdir -p build/.needs
  if ! command -v dpkg-query >/dev/null; then
    needs_say "not a Debian system: going on with what is installed; $name needs the equivalents of: $*"
    touch "$stamp"
    return
  fi
  for package in "$@"; do
    if [[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) != *" installed" ]]; then missing+=("$package"); fi
  done
  if ((${#missing[@]})); then install_now "${missing[@]}"; fi
  touch "$stamp"
}

install_now() {
  local as_root=() log=build/.needs/apt.log
  if [[ $(id -u) != 0 ]]; then
    if ! command -v sudo >/dev/null || { [[ ! -t 0 ]] && ! sudo -n true 2>/dev/null; }; then
      needs_say "these packages are missing, and installing them needs root: $*"
      needs_say "run: apt-get install --no-install-recommends $*"
      exit 1
    fi
    as_root=(sudo)
  fi
  needs_say "installing $*"
  # --no-remove: never trade a package of yours for one of ours; apt then says which two do not go together.
  local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=300)
  if ! { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends --no-remove "$@"; } >"$log" 2>&1 </dev/null; then
    tail -n 30 "$log" >&2
    needs_say "apt could not install $* (all it said is in $log)"
    exit 1
  fi
}

# The version that `cargo` prints is at least the one the Rust library behind src/text asks for.
recent_cargo() {
  local version
  version=$("$1" --version 2>/dev/null | cut -d ' ' -f 2) || return 1
  [[ -n $version && $(printf '%s\n' "$rust_least" "$version" | sort -V | head -n 1) == "$rust_least" ]]
}

need_build() {
  install build "${build_packages[@]}"
  if command -v cargo >/dev/null && recent_cargo cargo; then return; fi
  if [[ -x ${HOME:-}/.cargo/bin/cargo ]] && recent_cargo "$HOME/.cargo/bin/cargo"; then
    export PATH=$HOME/.cargo/bin:$PATH
    return
  fi
  install rust "${rust_packages[@]}"
  hash -r
  command -v cargo >/dev/null && recent_cargo cargo && return
  needs_say "the text library needs cargo $rust_least or newer on the PATH; found: $(cargo --version 2>&1 || true)"
  exit 1
}

need_tests() { install tests "${test_packages[@]}"; }

# Node 20 or newer with npm: for the page's sources alone. Debian 12's own is too old, so it is not installed from here.
need_node() {
  if command -v npm >/dev/null && node -e 'process.exit(process.versions.node.split(".")[0] < 20 ? 1 : 0)' 2>/dev/null; then return; fi
  needs_say "the page's sources need Node 20 or newer with npm; found: $(node --version 2>&1 || true)"
  exit 1
}

need_browser() { install browser chromium; }

need_fuzz() { install fuzz "${fuzz_packages[@]}"; }

need_tidy() { install tidy "${tidy_packages[@]}"; }

need_python() {
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
  install python python3
  if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then return; fi
  needs_say "the scripts need Python 3.11 or newer as python3; found: $("$python" --version 2>&1 || true)"
  exit 1
}

# A Python with pip: the one at hand, or else an environment of our own in build/.
need_pip() {
  need_python
  if "$python" -m pip --version >/dev/null 2>&1; then return; fi
  if [[ ! -x build/.needs/python/bin/pip ]]; then
    install venv python3-venv
    rm -rf build/.needs/python
    /usr/bin/python3 -m venv build/.needs/python
  fi
  python=build/.needs/python/bin/python
}

# The Python packages that read the sources of `./dev text`, in an environment of their own, and npm.
need_text() {
  local list=scripts/text/requirements.txt folder=build/.needs/text
  text_python=$folder/bin/python
  if [[ ! -e $folder/done || $list -nt $folder/done ]]; then
    rm -rf "$folder"
    "$python" -m venv "$folder" 2>/dev/null || { install venv python3-venv && /usr/bin/python3 -m venv "$folder"; }
    "$text_python" -m pip install --quiet --disable-pip-version-check --requirement "$list"
    touch "$folder/done"
  fi
  if ! command -v npm >/dev/null; then install npm npm; fi
}

need_lint() {
  install lint "${lint_packages[@]}"
  need_python
  command -v "$clang_format" >/dev/null && return
  needs_say "formatting is pinned to clang-format 14, as $clang_format; another version formats otherwise"
  exit 1
}
