#!/usr/bin/env python3
"""Two machines and one remote, through the binary: a store that is new runs nothing, secrets leave sealed only, and a training run that is
lost with its machine goes on elsewhere with every privacy charge counted. Also: machines of `fleet: ec2` are brought up and given back.

    tests/remote.py [path of the sprint-flow binary]

Needs moto_server (`pip install 'moto[server]==5.2.5'`) on PATH or in SPRINT_FLOW_MOTO; says so and passes where there is none.
"""

import json, os, pathlib, shutil, signal, socket, subprocess, sys, tempfile, time, urllib.request
import xml.etree.ElementTree as xml

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGET = os.environ.get("CARGO_TARGET_DIR", os.path.expanduser("~/.cache/sprint-flow/target"))
FLOW = sys.argv[1] if len(sys.argv) > 1 else f"{TARGET}/release/sprint-flow"
MOTO = os.environ.get("SPRINT_FLOW_MOTO") or shutil.which("moto_server")
if not MOTO:
    print("SKIPPED: no moto_server")
    sys.exit(0)

WORKFLOW = f"""sprint-flow: 1
name: sentence
params: {{epochs: 1.0}}
stages:
  mail: {{kind: download, params: {{source: 'file:{ROOT}/workflows/quickstart/mail_spam.tsv'}}}}
  encoder: {{kind: download, params: {{source: 'file:{ROOT}/workflows/quickstart/bert-tiny-5k'}}}}
  tokenize:
    kind: tokenize
    inputs: {{data: mail.files, model: encoder.files}}
    params: {{name: spam, text: text, label: label, classes: [ham, spam], holdout: {{fraction: 0.2}}, max_length: 32, max_train_rows: 240, max_validation_rows: 40}}
  finetune:
    kind: finetune
    inputs: {{dataset: tokenize.dataset, model: encoder.files}}
    params: {{epsilon: '8', delta: 1e-5, method: fa-lora, rank: 4, pooling: mean, batch: 24, epochs: '${{params.epochs}}', checkpoint_steps: 2, functions: {{caps: {{logits: 3}}}}}}
  clear: {{kind: infer-clear, inputs: {{model: finetune.model, dataset: tokenize.dataset}}}}
  metrics: {{kind: metrics, inputs: {{clear: {{gather: clear.predictions}}, reports: {{gather: finetune.report}}}}}}
"""
MACHINES = """sprint-flow: 1
name: machines
limits: {max_usd: 20}
stages:
  parties:
    kind: provision
    params: {fleet: ec2, ec2: {region: us-east-1, type: c5.large, image_name: "amzn*", from: 203.0.113.7/32, usd_per_hour: 0.1, endpoint: "%s"}}
    lease: {ttl: 3h, idle: 15m, max_usd: %s}
"""
work = pathlib.Path(tempfile.mkdtemp(prefix="remote-"))
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]
url = f"http://127.0.0.1:{port}"
moto = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
env = {**os.environ, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": url,
       "NO_COLOR": "1", "AWS_EC2_METADATA_DISABLED": "true"}


def start(machine, *args, workflow="w.yaml"):
    command = [FLOW, "run", str(work / workflow), "--store", str(work / machine), "--json", *args]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def run(machine, *args, code=0, workflow="w.yaml"):
    process = start(machine, *args, workflow=workflow)
    out, err = process.communicate(timeout=900)
    assert process.returncode == code, f"exit {process.returncode}, not {code}\n{out[-2000:]}\n{err[-2000:]}"
    return [json.loads(line) for line in out.splitlines()]


def get(path):
    signed = {"Authorization": "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}
    return urllib.request.urlopen(urllib.request.Request(f"{url}/flow{path}", headers=signed)).read()


def objects(prefix=""):
    names = {}
    page = get(f"?list-type=2&max-keys=100000&prefix={prefix}")
    space = "{http://s3.amazonaws.com/doc/2006-03-01/}"
    for item in xml.fromstring(page).iter(f"{space}Contents"):
        names[item.find(f"{space}Key").text] = int(item.find(f"{space}Size").text)
    return names


try:
    for _ in range(600):
        try:
            urllib.request.urlopen(urllib.request.Request(f"{url}/flow", method="PUT"))
            break
        except OSError:
            time.sleep(0.1)
    (work / "w.yaml").write_text(WORKFLOW)
    keygen = subprocess.run([FLOW, "remote", "keygen", "--out", str(work / "identity")], env=env, capture_output=True, text=True)
    assert keygen.returncode == 0, keygen.stderr
    recipient = keygen.stdout.strip()
    remote = ["--remote", "s3://flow/team"]
    owner = [*remote, "--identity", str(work / "identity")]
    sealing = [*remote, "--recipient", recipient]

    print("== without a key, secrets stay and everything public goes")
    end = run("a", *remote)[-1]
    names = objects()
    assert end["stages"]["ran"] == 6 and names and not any("sealed" in n or "checkpoints" in n or "ledgers" in n for n in names), names

    print("== with the owner's public key, the rest goes sealed")
    run("a", *sealing)
    names = objects()
    assert any("/v1/sealed/" in f"/{n}" for n in names), names

    print("== a new store runs nothing")
    end = run("b", *owner)[-1]
    assert end["stages"]["hit"] == 6 and end["stages"]["ran"] == 0, end["stages"]

    print("== no object shows a mail or a word list of one")
    mails = (ROOT / "workflows/quickstart/mail_spam.tsv").read_text().splitlines()
    text = mails[17].split("\t")[-1][:40].encode()
    public = [n for n in names if "/sealed/" in n]
    for name in public:
        assert text not in get(f"/{name}"), name

    print("== training that is lost with its machine goes on elsewhere")
    longer = ["--set", "epochs=30.0"]
    process = start("c", *sealing, *longer)
    deadline = time.time() + 300
    while len(objects("team/v1/checkpoints/")) < 2:
        assert time.time() < deadline and process.poll() is None, "no checkpoint came"
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(2)
    charged = sum(objects("team/v1/ledgers/").values())
    shutil.rmtree(work / "c")
    events = run("d", *owner, *longer)
    lines = [e["line"] for e in events if e["event"] == "stage_log"]
    taken = [l for l in lines if "was taken from the remote" in l and l.startswith("checkpoint")]
    counted = [l for l in lines if "privacy charges" in l]
    assert taken and counted, lines
    print("  ", taken[0])
    print("  ", counted[0], f"({charged} bytes were on the remote)")
    assert not objects("team/v1/checkpoints/"), "the result is there: checkpoints are not needed"

    print("== fleet: ec2")
    (work / "m.yaml").write_text(MACHINES % (url, "5"))
    end = run("m", workflow="m.yaml")[-1]
    listed = subprocess.run([FLOW, "cloud", "ls", "--region", "us-east-1", "--json"], env=env, capture_output=True, text=True)
    assert listed.returncode == 0 and json.loads(listed.stdout)["machines"] == [], listed
    (work / "dear.yaml").write_text(MACHINES % (url, "0.8"))
    run("m", workflow="dear.yaml", code=7)
    print("all passed")
finally:
    moto.kill()
    shutil.rmtree(work, ignore_errors=True)
