"""Run several federations in turn: ``final_hashes.py OUTPUT CONFIG…``; the final SHA-256 of each on a line."""

import sys
from pathlib import Path

from raffm_mpi.cli.displays import PlainDisplay
from raffm_mpi.config import load_settings
from raffm_mpi.exchange.join import join
from raffm_mpi.federation.run import run
from raffm_mpi.log import open_run

ranks = join()
for config in map(Path, sys.argv[2:]):
    settings = load_settings(config, [f"output={sys.argv[1]}/{config.stem}-{ranks.size}"])
    run(settings, ranks, PlainDisplay, overwrite=True)
    if ranks.rank == 0:
        log = open_run(settings.output)
        print("sha256", config.stem, log.attributes["final_model_sha256"], flush=True)
