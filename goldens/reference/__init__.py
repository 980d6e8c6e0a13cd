"""The Python reference, run as a user of today's release gets it, and the material it is run on.

    sizes       dimensions of the tiny checkpoint and of the three published ones
    checkpoint  a random-weight checkpoint folder in the published layout
    inputs      procedural pictures and videos
    model       the processor and the model behind one small class
    cases       the conversations that are recorded
    extras      tables of single rules, independent of the checkpoint
    files       JSON, safetensors and digests
"""

import os
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
warnings.filterwarnings("ignore")
