"""Models on real people: word error rates on films that are named by their sentences, as those of GRID.

    python -m benchmarks.real_clips FOLDER
    python -m benchmarks.real_clips FOLDER --models runs/pretrain_teacher/model runs/pretrain_audio_teacher/model
"""
import argparse, tempfile
from importlib.resources import files
from pathlib import Path
from avcomp.data.synthetic.voice import GRAMMAR
from avcomp.evaluate.real_clips import evaluate_real
from avcomp.evaluate.report import wer_intervals
from avcomp.evaluate.tables import percent
from avcomp.models.checkpoints import load_model

ASSETS = 'audio_teacher_tiny', 'teacher_tiny'
NAMES = {'av': 'sound and lips', 'a': 'sound', 'v': 'lips'}


def main(folder, models=(), out='', beam_size=5):
    paths = models or [files('avcomp')/'assets'/name for name in ASSETS]
    loaded = {str(path): load_model(path) for path in paths}
    with tempfile.TemporaryDirectory() as tmp:
        results = evaluate_real(loaded, folder, Path(out or tmp), beam_size=beam_size)
    wers = wer_intervals(results)
    said = next(iter(results.values())).references
    guess = sum(1 - 1/len(slot) for slot in GRAMMAR)/len(GRAMMAR)
    print(f'{len(said)} clips of {folder}; who guesses a word for each place is wrong in {guess:.0%}')
    for name, result in results.items():
        print(name)
        for modality, rates in wers[name].items():
            print(f'  {NAMES[modality]:16} {percent(rates["clean"])}')
            texts = result.hypotheses[modality]['clean']
            if len(said) <= 10: print(*(f'    {text:32} said: {said[id]}' for id, text in texts.items()), sep='\n')


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', help='films such as bbaf2n.mpg')
    p.add_argument('--models', nargs='*', default=(), help='that transcribe; none: those that avcomp carries')
    p.add_argument('--out', default='', help='where mouths and results are kept; none: nowhere')
    p.add_argument('--beam-size', type=int, default=5)
    main(**vars(p.parse_args()))
