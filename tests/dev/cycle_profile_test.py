#!/usr/bin/python3
"""Tests of benchmarks/cycle_profile.py, on what perf printed."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "benchmarks"))
import cycle_profile  # noqa: E402

PRINTED = """
    40.00%|redis_bench    |[kernel.kallsyms]|[k] tcp_sendmsg
    20.00%|redis_bench    |liblockr.so.0.1.0|[.] lockr::core::Table::enter(lockr::Key const&)
    10.00%|redis_bench    |liblockr.so.0.1.0|[.] lockr::redis::(anonymous namespace)::Lane::send()
    20.00%|redis_bench    |libc.so.6|[.] memcpy
    10.00%|lockr-service  |libhiredis.so.0.14|[.] redisReaderGetReply
    30.00%|redis-server   |redis-check-rdb|[.] luaV_execute
    10.00%|redis-server   |[kernel.kallsyms]|[k] tcp_sendmsg
    60.00%|cc1plus        |cc1plus|[.] something
"""


class Profile(unittest.TestCase):
    def test_shares_are_of_each_side_and_others_do_not_count(self):
        client, serving, functions = cycle_profile.profile_of(PRINTED, "redis_bench", "redis-server")
        self.assertEqual(client, {"lockr": 30, "libpq, OpenSSL, hiredis": 10, "libc": 20, "kernel": 40})
        self.assertEqual(serving, {"server": 75, "kernel": 25})
        self.assertEqual([share for _, share in functions], [20, 10])

    def test_the_page_names_the_dearest_functions_first(self):
        text = cycle_profile.markdown({"redis": cycle_profile.profile_of(PRINTED, "redis_bench", "redis-server")})
        self.assertIn("| redis | 30 % | 10 % | 20 % | 40 % | 75 % | 25 % |", text)
        self.assertIn("- redis, lockr's dearest functions: `Table::enter` 20.0 %, `redis::Lane::send` 10.0 %", text)

    def test_a_backend_without_a_server_has_none(self):
        text = cycle_profile.markdown({"x": cycle_profile.profile_of(PRINTED, "redis_bench", None)})
        self.assertIn("| x | 30 % | 10 % | 20 % | 40 % |  |  |", text)

    def test_without_samples_there_is_no_profile(self):
        with self.assertRaises(cycle_profile.NoProfile):
            cycle_profile.profile_of(PRINTED, "file_bench", None)


if __name__ == "__main__":
    unittest.main()
