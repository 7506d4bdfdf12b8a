#!/usr/bin/env python3
"""Kills processes of runs at random moments and wants the same command to finish, with nothing left behind.

    python3 tests/soak.py --bin target/release/sprint-flow --kills 20 [--workflow workflows/quickstart.yaml] [--longest 40]

For each kind of victim (orchestrator, stage process, dealer, party 0, party 1) a fresh store is worked on by the same command again and
again; each time one such process is killed with SIGKILL after a random delay, until as many have died as asked. Then the command must
succeed, what it made must verify, and no process may be left. Linux only (it reads /proc). Takes minutes to an hour; not part of the tests.
"""
import argparse, json, os, random, shutil, signal, subprocess, sys, tempfile, time

ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
ap.add_argument("--bin", default="target/release/sprint-flow")
ap.add_argument("--workflow", default="workflows/quickstart.yaml")
ap.add_argument("--kills", type=int, default=20)
ap.add_argument("--longest", type=float, default=40.0, help="seconds, of the random delay")
ap.add_argument("--victims", default="orchestrator,stage,dealer,party 0,party 1", help="separated by commas")
ap.add_argument("--seed", type=int, default=random.randrange(1 << 30))
ap.add_argument("--set", action="append", default=[], help="passed on")
opt = ap.parse_args()
rnd = random.Random(opt.seed)
BIN = os.path.abspath(opt.bin)
VICTIMS = {"orchestrator": None, "stage": "stage-worker", "dealer": "mpc-role dealer", "party 0": "mpc-role party-0", "party 1": "mpc-role party-1"}


def processes(store):
    found = {}
    for p in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = open(f"/proc/{p}/cmdline", "rb").read().replace(b"\0", b" ").decode(errors="replace")
            environ = open(f"/proc/{p}/environ", "rb").read().decode(errors="replace")
        except OSError:
            continue
        if int(p) != os.getpid() and (store in line or store in environ):
            found[int(p)] = line
    return found


def command(store, *more):
    sets = [x for pair in opt.set for x in ("--set", pair)]
    return [BIN, "run", opt.workflow, "--store", store, "--json", *sets, *more]


def soak(name, pattern):
    store = tempfile.mkdtemp(prefix="sf-soak-")
    killed = runs = 0
    try:
        while killed < opt.kills:
            # A run that has finished leaves nothing to kill: another number of messages is another action.
            more = ("--set", f"mpc_samples={100 + runs}") if runs else ()
            run = subprocess.Popen(command(store, *more), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            at = time.time() + rnd.uniform(0.05, opt.longest)
            while run.poll() is None and time.time() < at:
                time.sleep(0.01)
            while run.poll() is None:
                victims = [run.pid] if pattern is None else [p for p, line in processes(store).items() if pattern in line]
                if victims:
                    os.kill(rnd.choice(victims), signal.SIGKILL)
                    killed += 1
                    break
                time.sleep(0.01)
            if pattern is None and run.poll() is None:
                run.wait(60)
            else:
                run.wait(900)
                if run.returncode != 0 and pattern is not None:
                    print(f"     {name}: run ended with {run.returncode}: {run.stderr.read().decode()[-300:]}")
            runs += run.returncode == 0
            end = time.time() + 30
            while (left := processes(store)) and time.time() < end:
                time.sleep(0.05)
            if left:
                return f"left behind: {left}"
        last = subprocess.run(command(store), capture_output=True, text=True, timeout=1800)
        if last.returncode != 0:
            return f"exit {last.returncode}: {last.stderr[-800:]}"
        verified = subprocess.run([BIN, "artifacts", "verify", "--store", store, "--json"], capture_output=True, text=True, timeout=600)
        if verified.returncode != 0:
            return f"verify: exit {verified.returncode}: {verified.stderr[-800:]}"
        end = json.loads(last.stdout.splitlines()[-1])
        return None if end.get("status") == "succeeded" else f"ended as {end}"
    finally:
        shutil.rmtree(store, ignore_errors=True)


failed = 0
for name in opt.victims.split(","):
    pattern = VICTIMS[name]
    begin = time.time()
    wrong = soak(name, pattern)
    failed += wrong is not None
    print(f"{'FAIL' if wrong else 'ok  '} {opt.kills} kills of the {name} (seed {opt.seed}, {time.time() - begin:.0f} s){': ' + wrong if wrong else ''}", flush=True)
sys.exit(1 if failed else 0)
