#!/usr/bin/env bash
# Checks the alerts in docs/monitoring: their syntax, their unit tests, that each of them has a test in which it fires and one in
# which it does not, and that each names a runbook that docs/operations.md has. Needs promtool, which is in the package
# `prometheus` of Debian and Ubuntu; it is installed if that may be done without asking, as in scripts/setup.sh.
set -euo pipefail
cd "$(dirname "$0")/../docs/monitoring"

say() { printf 'check-monitoring: %s\n' "$*" >&2; }

install_promtool() {
    local by_hand='install promtool and run this again: on Debian and Ubuntu, sudo apt-get install prometheus; elsewhere'
    by_hand+=' it is part of https://prometheus.io/download'
    local as_root=()
    if ! command -v apt-get >/dev/null; then
        say "no promtool; $by_hand"
        exit 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null || ! sudo -n true 2>/dev/null; then
            say "no promtool; $by_hand"
            exit 1
        fi
        as_root=(sudo -n)
    fi
    say 'no promtool: installing the package prometheus, without starting its service'
    # The package would start a server. Only its promtool is wanted: a policy that says no to every service, for as long as
    # the installation takes.
    local policy=/usr/sbin/policy-rc.d had_policy=yes
    if [ ! -e "$policy" ]; then
        had_policy=no
        printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
        "${as_root[@]}" chmod +x "$policy"
    fi
    local status=0
    { "${as_root[@]}" apt-get update -q && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends prometheus; } </dev/null >&2 || status=1
    [ "$had_policy" = yes ] || "${as_root[@]}" rm -f "$policy"
    if [ "$status" -ne 0 ] || ! command -v promtool >/dev/null; then
        say "the installation failed; $by_hand"
        exit 1
    fi
}

command -v promtool >/dev/null || install_promtool

promtool check rules --lint-fatal alerts.yml
promtool test rules alerts_test.yml

failed=0
alerts=$(sed -n 's/^ *- alert: //p' alerts.yml)
# What the headings of a Markdown file are called in links.
anchors=$(sed -n 's/^##* //p' ../operations.md | tr '[:upper:] ' '[:lower:]-' | tr -cd '[:alnum:]_\n-')
for alert in $alerts; do
    # The tests of an alert, by whether they expect nothing.
    if ! grep -A 1 "alertname: $alert\$" alerts_test.yml | grep -q 'exp_alerts: \[\]'; then
        say "$alert has no test in which it stays quiet"
        failed=1
    fi
    if ! grep -A 1 "alertname: $alert\$" alerts_test.yml | grep -q 'exp_alerts:$'; then
        say "$alert has no test in which it fires"
        failed=1
    fi
done
[ "$(grep -c '^ *severity: \(info\|warning\|critical\)$' alerts.yml)" -eq "$(wc -w <<<"$alerts")" ] ||
    { say 'an alert has no severity, or an unknown one'; failed=1; }
for field in cause runbook summary; do
    [ "$(grep -c "^ *$field: " alerts.yml)" -eq "$(wc -w <<<"$alerts")" ] || { say "an alert has no $field"; failed=1; }
done
while read -r file anchor; do
    [ "$file" = docs/operations.md ] || { say "a runbook is in $file, not in docs/operations.md"; failed=1; }
    grep -qx "$anchor" <<<"$anchors" || { say "docs/operations.md has no heading for #$anchor"; failed=1; }
done < <(sed -n 's/^ *runbook: \(.*\)#\(.*\)$/\1 \2/p' alerts.yml)
[ "$failed" -eq 0 ] || exit 1
say "$(wc -w <<<"$alerts") alerts are checked, tested and explained"
