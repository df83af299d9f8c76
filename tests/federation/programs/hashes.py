"""Run by test_bits.py: federations of both models and both methods, each one's final SHA-256 on a line."""

import sys
from pathlib import Path

from raffm_mpi.config import load_settings
from raffm_mpi.federation.run import run
from raffm_mpi.federation.transport import Transport
from raffm_mpi.log import open_run
from raffm_mpi.progress import PlainDisplay

folder = Path(sys.argv[1])
transport = Transport()
for model in ("vit", "bert"):
    for variant, change in (("raffm", []), ("fedavg", ["method={name: fedavg}"]), ("seed", ["seed=1"])):
        overrides = [f"output={folder}/out/{transport.size}-{model}-{variant}", *change]
        settings = load_settings(folder / f"{model}.yaml", overrides)
        run(settings, transport, PlainDisplay, overwrite=True)
        if transport.rank == 0:
            log = open_run(settings.output)
            print("sha256", model, variant, log.attributes["final_model_sha256"], flush=True)
