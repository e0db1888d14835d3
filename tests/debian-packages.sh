#!/bin/sh
# Installs what tests use from Debian's packages, where this user may. Otherwise those tests skip and say why.
set -eu
wanted=""
command -v mosquitto >/dev/null 2>&1 || [ -x /usr/sbin/mosquitto ] || wanted="$wanted mosquitto"
# A mock of BlueZ on a private D-Bus: python3-dbusmock brings python3-dbus and python3-gi for Debian's own Python.
command -v dbus-daemon >/dev/null 2>&1 || wanted="$wanted dbus"
/usr/bin/python3 -c "import dbus, dbusmock, gi" >/dev/null 2>&1 || wanted="$wanted python3-dbusmock python3-dbus python3-gi"
[ -z "$wanted" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "not installed and cannot be here (root and apt needed):$wanted; their tests will skip"
    exit 0
fi
echo "installing from Debian:$wanted"
export DEBIAN_FRONTEND=noninteractive
# A policy of 101 keeps the package from starting a broker on its own.
policy=/usr/sbin/policy-rc.d
made=""
[ -e "$policy" ] || { printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod +x "$policy" && made=1; }
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $wanted; } >/tmp/telemetry-apt.log 2>&1 ||
    echo "apt-get failed; see /tmp/telemetry-apt.log; their tests will skip"
[ -z "$made" ] || rm -f "$policy"
exit 0
