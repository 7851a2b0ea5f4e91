# Shell functions that scripts/lab, scripts/test, scripts/vm and scripts/vm-provision share. Source
# it; it does nothing by itself. Every function is safe to call again.
#
# shellcheck shell=sh

ROOT=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
VENV="$ROOT/.venv"

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $1"
    [ $# -lt 2 ] || say "hint: $2"
    exit "${3:-3}"
}

# usage FILE: print the comment at its top.
usage() { sed -n '2,/^[^#]/{/^# shellcheck/d;s/^#$//p;s/^# //p;}' "$1"; }

is_root() { [ "$(id -u)" -eq 0 ]; }

# has PROGRAM: whether it is there; a user's PATH may lack the sbin directories.
has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }

# is_python PROGRAM: whether it is Python 3.11 or newer and can make virtual environments.
is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null &&
        "$1" -c 'import ensurepip, venv' 2>/dev/null
}

# find_python: print a usable Python, the distribution's own first; fail when there is none.
find_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.14; do
        if is_python "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    return 1
}

# package_exists NAME: whether apt could install it.
package_exists() { apt-cache show "$1" >/dev/null 2>&1; }

# python_packages: print the packages that give a Python of 3.11 or newer with venv.
python_packages() {
    version=$(apt-cache show python3 2>/dev/null | sed -n 's/^Version: 3\.\([0-9]*\).*/\1/p' | head -n 1)
    if [ "${version:-0}" -ge 11 ]; then
        echo python3 python3-venv
        return
    fi
    for minor in 13 12 11; do
        if package_exists "python3.$minor-venv"; then
            echo "python3.$minor" "python3.$minor-venv"
            return
        fi
    done
    echo python3 python3-venv
}

# missing_packages: print what a lab needs and this machine lacks, in words of packages; with
# FOR_TESTS=yes also what only the tests call.
missing_packages() {
    if [ "${FOR_TESTS:-}" = yes ]; then
        has sysctl || echo procps
        has curl || echo curl
        has tshark || echo tshark
        has tcpdump || echo tcpdump
        has ipset || echo ipset
        has ipvsadm || echo ipvsadm
        has dot || echo graphviz
        has systemd-nspawn || echo systemd-container
        has vagrant || ! package_exists vagrant || echo vagrant # not in every release
        has chromium || has google-chrome || echo chromium
    fi
    has ip || echo iproute2
    has ping || echo iputils-ping
    has nft || echo nftables
    has iptables-nft-restore || echo iptables
    if ! has etcd; then
        # One package `etcd` in older releases, server and client apart in newer ones.
        if ! has apt-cache || package_exists etcd-server; then
            echo etcd-server
        else
            echo etcd
        fi
    fi
    has openssl || echo openssl
    has nginx || echo nginx # with Lua, so that endpoints change without a reload
    [ -e /usr/share/nginx/modules-available/mod-http-lua.conf ] || echo libnginx-mod-http-lua
    has etcdctl || ! has apt-cache || ! package_exists etcd-client || echo etcd-client
    find_python >/dev/null || python_packages
}

# without_services COMMAND...: run it so that installing etcd and nginx starts neither: a lab runs
# its own in its own namespaces. A service that was there before is left as it is. The masks live
# in /run, so even a kill leaves nothing beyond the next boot.
without_services() {
    if [ -d /run/systemd/system ]; then
        new=
        for service in etcd nginx; do
            has "$service" || new="$new $service.service"
        done
        # shellcheck disable=SC2086  # one word per service
        [ -z "$new" ] || systemctl mask --runtime --quiet $new 2>/dev/null || true
        status=0
        "$@" || status=$?
        # Packages enable a new service even while it is masked: not at the next boot either.
        # shellcheck disable=SC2086
        if [ -n "$new" ]; then
            systemctl unmask --runtime --quiet $new 2>/dev/null || true
            systemctl disable --quiet $new 2>/dev/null || true
        fi
        return "$status"
    fi
    # Without systemd, init scripts ask this file whether they may start anything.
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        "$@"
        return
    fi
    trap 'rm -f "$policy"; exit 130' INT TERM
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    status=0
    "$@" || status=$?
    rm -f "$policy"
    trap - INT TERM
    return "$status"
}

# apt_quiet WORDS...: apt-get without questions; its output is shown only when it fails.
apt_quiet() {
    log=$(mktemp)
    if DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 "$@" >"$log" 2>&1; then
        rm -f "$log"
        return 0
    fi
    cat "$log" >&2
    rm -f "$log"
    return 1
}

# install_packages NAME...: install those, without what they merely recommend.
install_packages() {
    say "installing $*"
    case " $* " in
    *" etcd"* | *nginx*) guard=without_services ;;
    *) guard= ;;
    esac
    $guard apt_quiet install --no-install-recommends "$@" ||
        die "apt could not install: $*" "its words are above; is there a network?"
}

# need_programs: have everything a lab needs, or say what is missing.
need_programs() {
    [ -n "$(missing_packages)" ] || return 0
    if is_root && has apt-get; then
        # Fresh lists first: what a package is called depends on the release.
        apt_quiet update || say "note: apt-get update failed; going on with the lists there are"
        # shellcheck disable=SC2046  # one word per package
        install_packages $(missing_packages)
    fi
    missing=$(missing_packages | tr '\n' ' ')
    [ -z "$missing" ] || die "missing: $missing" "sudo apt-get install $missing"
}

# need_modules: have the one kernel module that nothing loads by itself. Loading it makes the host's
# own bridges meet iptables; that is put back, and each lab turns it on in its own namespaces.
need_modules() {
    bridge=/proc/sys/net/bridge
    if ! is_root || [ -e "$bridge/bridge-nf-call-iptables" ] || ! has modprobe; then
        return 0
    fi
    modprobe br_netfilter 2>/dev/null || return 0 # built in, or missing: `netlab doctor` tells
    say "loaded the kernel module br_netfilter"
    for family in iptables ip6tables arptables; do
        echo 0 >"$bridge/bridge-nf-call-$family" 2>/dev/null || true
    done
}

# compile_netlab: byte code for the checkout, also where PYTHONDONTWRITEBYTECODE is set: without it
# every command spends 0.1 s on compiling. Files that have not changed are passed over.
compile_netlab() { "$VENV/bin/python" -m compileall -q "$ROOT/netlab" || true; }

# need_venv [EXTRA]: have .venv with netlab (and its EXTRA) in it, made again only when
# pyproject.toml, the place or the Python changed. What pip installs comes from the directory `wheels`
# of the checkout, if there is one: no network is asked then.
need_venv() {
    extra=${1:-}
    python=$(find_python) || die "no Python 3.11 or newer with venv" "sudo apt-get install python3-venv"
    stamp="$VENV/netlab${extra:+-$extra}.stamp"
    now=$( (cat "$ROOT/pyproject.toml" && echo "$ROOT" && "$python" -V) | sha256sum)
    if [ -x "$VENV/bin/netlab" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$now" ]; then
        compile_netlab
        return 0
    fi
    say "making the virtual environment $VENV"
    if ! "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        "$python" -m venv --clear "$VENV" || die "cannot make $VENV"
    fi
    from=
    [ ! -d "$ROOT/wheels" ] || from="--no-index --find-links=$ROOT/wheels"
    # shellcheck disable=SC2086  # two words, or none
    "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check $from \
        --editable "$ROOT${extra:+[$extra]}" || die "pip could not install netlab's dependencies"
    compile_netlab
    for satisfied in "$stamp" "$VENV/netlab.stamp"; do
        printf '%s\n' "$now" >"$satisfied"
    done
    # A checkout made by a user and installed by sudo stays the user's.
    if is_root && [ "$(stat -c %u "$ROOT")" != 0 ]; then
        chown -R "$(stat -c %u:%g "$ROOT")" "$VENV" "$ROOT"/*.egg-info 2>/dev/null || true
    fi
}

# link_command: let `netlab` be typed, unless something else has that name; set `command` to what can
# be typed.
link_command() {
    link=/usr/local/bin/netlab
    target="$VENV/bin/netlab"
    if [ "$(readlink "$link" 2>/dev/null)" = "$target" ]; then
        command=netlab
    elif is_root && [ ! -e "$link" ] && [ ! -L "$link" ] && ! command -v netlab >/dev/null; then
        ln -s "$target" "$link"
        say "linked $link to $target"
        command=netlab
    else
        command=$target
    fi
}
