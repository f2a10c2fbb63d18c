"""Models on real people: words they write of GRID-like films, which none of them was trained on, per modality.

    python -m benchmarks.real_clips FOLDER [--models NAME=MODEL ...]
"""
import argparse, tempfile
from importlib.resources import files
from pathlib import Path
from avcomp.evaluate.real_clips import check_real, evaluate_real, real_cuts
from avcomp.evaluate.intervals import in_words
from avcomp.models.checkpoints import load_model

ASSETS = 'audio_teacher_tiny', 'teacher_tiny'
