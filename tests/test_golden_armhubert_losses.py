"Masking distillation and temporal Gram matrices against recorded numbers (tests/golden/armhubert)."
import json
from pathlib import Path
import torch
from safetensors.torch import load_file
from avcomp.distill.gram import attention_distance, relation_distance

GOLDEN = Path(__file__).parent/'golden/armhubert'

def read(case):
    return load_file(GOLDEN/case/'io.safetensors'), json.loads((GOLDEN/case/'expected.json').read_text())

def close(got, want): torch.testing.assert_close(got, torch.tensor(want, dtype=got.dtype), rtol=1e-5, atol=0)

def test_gram_losses():
    "Computed from the formulas in float64: whole clips, and with padding; raw entries, and cosines."
    io, expected = read('star_tgm_losses')
    student, teacher = io['student_F'].double(), io['teacher_F'].double()
    L, (B, N) = len(student) - 1, student.shape[1:3]
    whole = torch.ones(B, N, dtype=torch.bool)
    padded = torch.arange(N) < io['valid_lengths'][:, None]
    for name, before, scale in (('layer_wise', 0, 'none'), ('intra_layer', 1, 'none'), ('layer_wise_cosine_norm', 0, 'cosine')):
        def summed(valid):
            return sum(relation_distance((student[i - before], student[i]), (teacher[i - before], teacher[i]), valid, scale)
                       for i in range(1, L + 1))
        close(summed(whole).mean(), expected[name]['element_mean_summed_over_layers'])
        close(summed(whole).sum()*N**2, expected[name]['sum_over_all'])
        close(summed(padded).mean(), expected[name]['padded_per_clip_mean_then_batch_mean_summed_over_layers'])
    maps = (io[f'{who}_attn_mean'].double()[:, :, None] for who in ('student', 'teacher'))
    rows = torch.stack([attention_distance(q, p, whole) for q, p in zip(*maps)])
    close(rows.mean(), expected['avg_attention_kl']['mean'])
