#!/usr/bin/env bash
# Private inference between network namespaces, and on hosts behind real sshd processes in such namespaces: the whole path from "machines
# are up" to metrics. Needs root, iproute2, and for the second half openssh-server; says what it skips.
#
#     tests/netns.sh [path of the sprint-flow binary]
set -euo pipefail
cd "$(dirname "$0")/.."
flow="${1:-${CARGO_TARGET_DIR:-$HOME/.cache/sprint-flow/target}/release/sprint-flow}"
work="$(mktemp -d)"
tag="sft$$"
cleanup() {
    for n in 0 1 2; do
        [ -f "$work/sshd-$n.pid" ] && kill "$(cat "$work/sshd-$n.pid")" 2>/dev/null || true
        ip netns del "$tag-$n" 2>/dev/null || true
    done
    ip link del "$tag" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
[ "$(id -u)" = 0 ] || { echo "SKIPPED: network namespaces need root"; exit 0; }
command -v ip >/dev/null || { echo "SKIPPED: no ip (iproute2)"; exit 0; }

narrow=(--set 'networks=[loopback, lan]' --set 'batches=["1"]' --set samples=2)
ended() { # the last line of a run: succeeded, and nothing left
    python3 -c 'import json,sys; e=json.loads(sys.stdin.read().splitlines()[-1]); assert e["status"]=="succeeded", e; print("  ", e["stages"])'
}

# Another run of this machine may have namespaces of its own.
fleets() { ip netns list | grep -o '^sf[0-9a-f]\{8\}-[^ ]*' | sort || true; }

echo "== fleet: netns"
before="$(fleets)"
"$flow" run workflows/lan-wan.yaml --store "$work/store" "${narrow[@]}" --set fleet=netns --json > "$work/netns.json"
ended < "$work/netns.json"
python3 - "$work/netns.json" <<'P'
import json, sys
end = json.loads(open(sys.argv[1]).read().splitlines()[-1])
for row in json.load(open(end["outputs"]["metrics.table"]["path"]))["rows"]:
    link = row["mpc_cost"]["link"]
    # A busy machine makes a link slower than its shape, never faster.
    assert row["axes"]["net"] != "lan" or link["rtt_ms"] >= 1 and 0 < link["mbit"] < 1050, row
    print(f'   {row["axes"]["net"]}: {link["rtt_ms"]:.2f} ms, {link["mbit"]:.0f} Mbit/s as measured')
P
left="$(comm -13 <(echo "$before") <(fleets))"
[ -z "$left" ] || { echo "FAILED: namespaces are left: $left"; exit 1; }

echo "== fleet: ssh"
sshd="$(command -v sshd || ls /usr/sbin/sshd 2>/dev/null || true)"
[ -n "$sshd" ] || { echo "SKIPPED: no sshd (apt-get install openssh-server)"; exit 0; }
ip link add "$tag" type bridge
ip addr add 10.214.7.254/24 dev "$tag"
ip link set "$tag" up
ssh-keygen -q -t ed25519 -N '' -f "$work/login"
mkdir -p /run/sshd
roles=(party-0 party-1 dealer)
{
    echo "hosts:"
    for n in 0 1 2; do
        ip netns add "$tag-$n"
        ip link add "${tag}v$n" type veth peer name eth0 netns "$tag-$n"
        ip link set "${tag}v$n" master "$tag" up
        ip -n "$tag-$n" addr add "10.214.7.$((n + 1))/24" dev eth0
        ip -n "$tag-$n" link set eth0 up
        ip -n "$tag-$n" link set lo up
        ssh-keygen -q -t ed25519 -N '' -f "$work/host-$n"
        printf '%s\n' "Port 22" "HostKey $work/host-$n" "PidFile $work/sshd-$n.pid" "AuthorizedKeysFile $work/login.pub" "StrictModes no" \
            "PasswordAuthentication no" "UsePAM no" "PermitRootLogin prohibit-password" > "$work/sshd-$n.conf"
        ip netns exec "$tag-$n" "$sshd" -f "$work/sshd-$n.conf" -E "$work/sshd-$n.log" >&2
        echo "  ${roles[$n]}: {host: 10.214.7.$((n + 1)), user: root, host_key: \"$(cut -d' ' -f1,2 "$work/host-$n.pub")\","
        echo "    identity: $work/login, folder: $work/remote-$n}"
    done
} > "$work/hosts.yaml"
python3 - "$work" <<'P'
import sys
work = sys.argv[1]
text = open("workflows/lan-wan.yaml").read().replace("file:quickstart", "file:" + __import__("os").path.abspath("workflows/quickstart"))
text = text.replace("../configs/train", __import__("os").path.abspath("configs/train"))
text = text.replace('params: {fleet: "${params.fleet}"}', "params: {fleet: ssh, use: hosts.yaml}")
open(work + "/ssh.yaml", "w").write(text)
P
narrow=(--set 'networks=[loopback]' --set 'batches=["1"]' --set samples=2)
"$flow" run "$work/ssh.yaml" --store "$work/store" "${narrow[@]}" --json > "$work/ssh.json" || { tail -3 "$work"/ssh.json; tail -3 "$work"/sshd-*.log; exit 1; }
ended < "$work/ssh.json"
for n in 0 1 2; do
    [ -z "$(ls -A "$work/remote-$n" 2>/dev/null)" ] || { echo "FAILED: files are left on host $n"; ls -R "$work/remote-$n"; exit 1; }
done

echo "== another host key than the pinned one"
ssh-keygen -q -t ed25519 -N '' -f "$work/other"
sed -i "s#host: 10.214.7.2, user: root, host_key: \"[^\"]*\"#host: 10.214.7.2, user: root, host_key: \"$(cut -d' ' -f1,2 "$work/other.pub")\"#" "$work/hosts.yaml"
if "$flow" run "$work/ssh.yaml" --store "$work/store" "${narrow[@]}" --json > "$work/other.json" 2> "$work/other.err"; then
    echo "FAILED: a host with another key was used"; exit 1
fi
grep -q "another host key" "$work/other.err" "$work/other.json" || { cat "$work/other.err"; exit 1; }
echo "all passed"
