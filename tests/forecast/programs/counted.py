"""Run by test_calibrate.py: measure the server's and a client's part on a clock that only the aggregator's calls move.

``counted.py CONFIG …`` prints, for each config, the seconds of one commit and of one update on that clock as JSON.
"""

import json
import sys
from types import SimpleNamespace
from unittest import mock

from raffm_mpi.config import load_settings
from raffm_mpi.elastic.packing import num_entries, pack
from raffm_mpi.exchange.lone import LoneRank
from raffm_mpi.federation.run import set_up
from raffm_mpi.forecast import calibrate

SECONDS = {"apply": 1, "rewrite": 10, "contribution": 100, "add": 1000}


def measured(config, ranks):
    experiment = set_up(load_settings(config), ranks)
    sent = experiment.aggregator.sent
    model = pack(sent, {n: p.detach() for n, p in experiment.model.named_parameters() if n in sent.labels})
    passed = {"s": 0.0}

    def slow(owner, name):
        own = getattr(owner, name)

        def call(*arguments, **options):
            passed["s"] += SECONDS[name]
            return own(*arguments, **options)

        return mock.patch.object(owner, name, call)

    clock = SimpleNamespace(perf_counter=lambda: passed["s"])
    aggregator, method = experiment.aggregator, experiment.method
    with (
        mock.patch.object(calibrate, "time", clock),
        slow(aggregator, "apply"),
        slow(method, "rewrite"),
        slow(aggregator, "contribution"),
        slow(aggregator, "add"),
    ):
        bench = calibrate._Bench(experiment, ranks, model)
        server, update_s = bench.server(), bench.update_s()
    commit_s = 8 * num_entries(aggregator.summed) / server["commit_bytes_per_s"]
    return {"commit_s": commit_s, "commit_client_s": server["commit_client_s"], "update_s": update_s}


if __name__ == "__main__":
    ranks = LoneRank()
    print(json.dumps([measured(config, ranks) for config in sys.argv[1:]]))
