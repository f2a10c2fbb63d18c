"Masking distillation and temporal Gram matrices against recorded numbers (tests/golden/armhubert)."
import json
from types import SimpleNamespace
from pathlib import Path
import torch
from safetensors.torch import load_file
from avcomp.distill.gram import attention_distance, relation_distance
from avcomp.distill.masked import Masked, masked_parts
from avcomp.models.contract import Output

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
    def summed(valid, before, scale):
        pairs = [[(who[i - before], who[i]) for who in (student, teacher)] for i in range(1, L + 1)]
        return sum(relation_distance(*pair, valid, scale) for pair in pairs)
    rows = ('layer_wise', 0, 'none'), ('intra_layer', 1, 'none'), ('layer_wise_cosine_norm', 0, 'cosine')
    for name, *how in rows:
        close(summed(whole, *how).mean(), expected[name]['element_mean_summed_over_layers'])
        close(summed(whole, *how).sum()*N**2, expected[name]['sum_over_all'])
        close(summed(padded, *how).mean(), expected[name]['padded_per_clip_mean_then_batch_mean_summed_over_layers'])
    maps = (io[f'{who}_attn_mean'].double()[:, :, None] for who in ('student', 'teacher'))
    rows = torch.stack([attention_distance(q, p, whole) for q, p in zip(*maps)])
    close(rows.mean(), expected['avg_attention_kl']['mean'])

def test_masking_distillation_loss():
    "The reference's four parts, its sum, and its validation loss; mse and l1."
    io, expected = read('masking_distillation_loss')
    names = 'student_projections', 'teacher_unmasked_input', 'teacher_masked_input'
    student, whole, holed = (io[name] for name in names)
    valid, mask = torch.ones_like(io['mask_indices']).bool(), io['mask_indices'].bool()
    for want, distance in ((expected['mse'], 'l2'), (expected['l1'], 'l1')):
        layers = [masked_parts(*states, mask, valid, distance) for states in zip(student, whole, holed)]
        hidden, seen = ([part/valid.sum() for part in parts] for parts in zip(*layers))
        close(sum(hidden[:-1]), want['mask_hint_loss'])
        close(sum(seen[:-1]), want['unmask_hint_loss'])
        close(hidden[-1], want['mask_rec_loss'])
        close(seen[-1], want['unmask_rec_loss'])
        found = losses_of(Masked(distance=distance), student, whole, holed, mask)
        close(found(True)['total'], want['total'])
        close(found(False)['total'], want['validation_total'])

def losses_of(term, student, whole, holed, mask):
    "The whole term on recorded states: what it says in training, and in validation."
    def output(states): return Output([states[0], *states], states[-1])
    hidden = SimpleNamespace(student=output(student), teacher=output(holed), mask=mask)
    def losses(training):
        both = dict(student=output(student), teacher=output(whole))
        passes = SimpleNamespace(**both, hidden=lambda spans: hidden, training=training)
        return term(passes, lambda out: out.hidden_states[1:])
    return losses
