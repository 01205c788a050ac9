#!/usr/bin/python3
"""schema_verdicts.py LOCKR TEST...: python3-jsonschema against lockr, on every config of the tests and the docs.

The configs are those that the TESTs parse, those of the docs, and some more for the backends' own sections. Each gets
the same verdict from the schema that `lockr config schema` prints as from `lockr config check`, but for what the schema's
$comment leaves to lockr; that is told by lockr's words, and the schema then must not object.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

import jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("backends/*/README.md")]
LOCKRS_ALONE = [
    "expected a duration from",
    "expected a duration of whole nanoseconds",
    "expected a duration below",
    "environment variable",
    "expected ${",
    "an absolute path in ${file:",
    "without its",
    "the file /",
    "NUL",
    "the name or number of a group",
    "at most 128 bytes",
    "the module ",
    "/dsn: expected",
    "the URL: expected",
    "/url: expected",
    "found the value of a reference",
    "an integer from",
    "deeper than 16 levels",
    "more than 256 fields",
    "/plugin: the module ",
]
MORE = [
    '{"backend": "file", "file": {"directory": "/x", "group": "0"}}',
    '{"backend": "file", "file": {"url": "file:/x"}}',
    '{"backend": "file", "file": {"directory": "x"}}',
    '{"backend": "file", "file": {"directory": 5}}',
    '{"backend": "file", "file": {"nosuch": "x"}}',
    '{"backend": "file", "memory": {}}',
    '{"backend": "memory", "memory": {}}',
    '{"backend": "memory", "memory": {"x": 1}}',
    '{"backend": "nosuch"}',
    '{"backend": "${LOCKR_TEST_BACKEND}", "file": {"directory": "/x"}}',
    '{"backend": "file", "file": {"directory": "${LOCKR_TEST_DIRECTORY}/x"}}',
    '{"backend": "postgres"}',
    '{"backend": "postgresql", "postgresql": {"lanes": 4}}',
    '{"backend": "postgresql", "postgres": {"lanes": 4}}',
    '{"backend": "postgres", "postgres": {"dsn": "host=db", "lanes": 1, "waiters": 0, "fencing": true}}',
    '{"backend": "postgres", "postgres": {"dsn": "host=db", "session_ttl": "30s"}}',
    '{"backend": "postgres", "postgres": {"session_ttl": 30}}',
    '{"backend": "postgres", "postgres": {"session_ttl": "30"}}',
    '{"backend": "postgres", "postgres": {"session_ttl": "0s"}}',
    '{"backend": "postgres", "postgres": {"lanes": 0}}',
    '{"backend": "postgres", "postgres": {"waiters": 65}}',
    '{"backend": "postgres", "postgres": {"fencing": "yes"}}',
    '{"backend": "postgres", "postgres": {"url": "postgresql://app@db/app?lanes=2"}}',
    '{"backend": "postgres", "postgres": {"url": "mysql://db"}}',
    '{"backend": "postgres", "postgres": {"url": "postgresql://db", "lanes": 2}}',
    '{"backend": "postgres", "postgres": {"dsn": "nonsense"}}',
    '{"backend": "redis"}',
    '{"backend": "rediss", "rediss": {"host": "cache", "ttl": "30s"}}',
    '{"backend": "redis", "redis": {"host": "cache", "port": 6380, "user": "u", "password": "${LOCKR_TEST_BACKEND}"}}',
    '{"backend": "redis", "redis": {"socket": "/run/redis.sock", "database": 3, "prefix": "a:", "fencing": false}}',
    '{"backend": "redis", "redis": {"tls": true, "tls_ca": "/ca", "tls_certificate": "/c", "tls_key": "/k"}}',
    '{"backend": "redis", "redis": {"ttl": "1m", "margin": "10s", "lock_delay": "5s", "lanes": 4}}',
    '{"backend": "redis", "redis": {"hots": "cache"}}',
    '{"backend": "redis", "redis": {"port": 0}}',
    '{"backend": "redis", "redis": {"host": ""}}',
    '{"backend": "redis", "redis": {"prefix": ""}}',
    '{"backend": "redis", "redis": {"prefix": "' + "x" * 129 + '"}}',
    '{"backend": "redis", "redis": {"socket": "/a", "host": "b"}}',
    '{"backend": "redis", "redis": {"socket": "/a", "tls": true}}',
    '{"backend": "redis", "redis": {"socket": "a"}}',
    '{"backend": "redis", "redis": {"socket": "/' + "x" * 107 + '"}}',
    '{"backend": "redis", "redis": {"user": "a"}}',
    '{"backend": "redis", "redis": {"tls_ca": "/a"}}',
    '{"backend": "redis", "redis": {"tls": false, "tls_name": "a"}}',
    '{"backend": "redis", "redis": {"tls": true, "tls_key": "/a"}}',
    '{"backend": "redis", "redis": {"ttl": 10}}',
    '{"backend": "redis", "redis": {"ttl": "10"}}',
    '{"backend": "redis", "redis": {"ttl": "500ms"}}',
    '{"backend": "redis", "redis": {"ttl": "10s", "margin": "6s"}}',
    '{"backend": "redis", "redis": {"lock_delay": "2h"}}',
    '{"backend": "redis", "redis": {"lanes": 65}}',
    '{"backend": "redis", "redis": {"fencing": "no"}}',
    '{"backend": "redis", "redis": {"url": "redis://cache/1?ttl=30s"}}',
    '{"backend": "redis", "redis": {"url": "${LOCKR_TEST_URL}"}}',
    '{"backend": "redis", "redis": {"url": "redis://cache?tll=30s"}}',
    '{"backend": "redis", "redis": {"url": "mysql://cache"}}',
    '{"backend": "redis", "redis": {"url": "redis://cache", "lanes": 2}}',
    '{"backend": "file", "accept_risk": ["network_file_system", "eviction"]}',
    '{"backend": "file", "accept_risk": ["${LOCKR_TEST_RISK}"]}',
    '{"backend": "file", "accept_risk": ["network_file_sytem"]}',
    '{"backend": "file", "accept_risk": ["${LOCKR_TEST_BACKEND}"]}',
    '{"backend": "file", "file": {"url": "file:/x", "group": "0"}}',
    '{"backend": "file", "file": {"url": "file:relative"}}',
    '{"backend": "file", "limits": {"held": 1.0}}',
    '{"backend": "file", "limits": {"held": 1.5}}',
    '{"backend": "file", "label": "' + "\u00e9" * 100 + '"}',
    '{"backend": "memory", "label": "${LOCKR_TEST_BACKEND}' + "x" * 120 + '"}',
    '{"backend": "table", "plugin": "/no/table.so", "lable": "x"}',
    '{"backend": "table", "plugin": "/no/table.so", "table": 5}',
]
# What references in the configs above bring.
ENVIRONMENT = dict(
    os.environ,
    LOCKR_TEST_BACKEND="file",
    LOCKR_TEST_DIRECTORY="/run",
    LOCKR_TEST_RISK="shared_directory",
    LOCKR_TEST_URL="redis://cache",
)


def unique(pairs):
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def documented():
    for page in PAGES:
        yield from re.findall(r"```json\n(.*?)```", page.read_text(), re.DOTALL)


def corpus_of(tests, folder):
    path = folder / "corpus"
    environment = dict(os.environ, LOCKR_CONFIG_CORPUS=str(path), LOCKR_SOURCE_ROOT=str(ROOT))
    for test in tests:  # Its own verdict is another test's.
        subprocess.run([test], env=environment, stdout=subprocess.DEVNULL, check=False)
    return [bytes.fromhex(line) for line in path.read_text().split()]


def verdict_of_lockr(lockr, folder, text):
    path = folder / "config.json"
    path.write_bytes(text)
    run = subprocess.run([lockr, "config", "check", path], capture_output=True, text=True, errors="replace", check=False,
                         env=ENVIRONMENT)
    return run.returncode == 0, run.stderr.strip()


def verdict_of_schema(validator, text):
    try:
        config = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        return False, str(error)
    errors = [error.message for error in validator.iter_errors(config)]
    return not errors, "; ".join(errors)


def main():
    lockr, *tests = sys.argv[1:]
    schema = json.loads(subprocess.run([lockr, "config", "schema"], capture_output=True, check=True).stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    counts = {"good": 0, "bad": 0, "lockr's alone": 0}
    wrong = 0
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        texts = corpus_of(tests, folder) + [text.encode() for text in [*documented(), *MORE]]
        for text in dict.fromkeys(texts):
            good, reason = verdict_of_lockr(lockr, folder, text)
            fits, objection = verdict_of_schema(validator, text)
            if good == fits:
                counts["good" if good else "bad"] += 1
            elif fits and any(words in reason for words in LOCKRS_ALONE):
                counts["lockr's alone"] += 1
            else:
                wrong += 1
                print(f"{text!r}\n  lockr: {'good' if good else reason}\n  schema: {'good' if fits else objection}")
    print(", ".join(f"{count} {name}" for name, count in counts.items()), f"{wrong} disagree", sep="; ")
    return 1 if wrong or counts["good"] < 5 or counts["bad"] < 20 else 0


if __name__ == "__main__":
    sys.exit(main())
