"Any sum of terms, beside any methods, on students of other widths and depths: what it logs, and that it is learned."
from copy import deepcopy
import pytest, torch
from avcomp.compress.merging import Merging
from avcomp.compress.pruning import Gating
from avcomp.compress.reuse import Reuse
from avcomp.compress.sparse_training import Magnitude
from avcomp.distill.cluster_prediction import ClusterPrediction
from avcomp.distill.clusters import fit_codebook, write_codebook
from avcomp.distill.gram import Gram
from avcomp.distill.masked import Masked
from avcomp.distill.posteriors import Logits
from avcomp.distill.spans import Spans
from avcomp.distill.terms import Layers
from avcomp.models.armhubert import ArmHubert, armhubert_config
from avcomp.models.avhubert import AVHubert, avhubert_config
from avcomp.models.hubert import Hubert, WavLM, hubert_config
from avcomp.models.surgery import Regularisation
from avcomp.train.distill import Distill, DistillTraining
from avcomp.train.finetune import Finetune, FinetuneTraining
from avcomp.train.fit import AdamW, Fit
from avcomp.train.schedules import Linear
from avcomp.train.task import Stage, overfit

TOY = dict(conv_dims=(8,)*7, num_layers=2, ffn_dim=32, pos_groups=4, num_heads=2)
THIN = dict(conv_dims=(8,)*8 + (16,), num_layers=2, embed_dim=16, ffn_dim=24, num_heads=2, pos_groups=4, target_dim=32)
SEEING = dict(num_layers=2, video_widths=(4, 4, 8, 8), embed_dim=32, ffn_dim=32, num_heads=2, pos_groups=4)
SPANS = Spans(0.4, 3)
FIT = Fit(40, optimizer=AdamW(3e-3), schedule=Linear(2))

def hubert(seed=0, family=Hubert, **fields):
    torch.manual_seed(seed)
    name = 'hubert_tiny' if family is Hubert else 'wavlm_tiny'
    return family(hubert_config(name, **TOY | dict(embed_dim=32) | fields)).eval()

def students():
    "A teacher of waveforms and those that follow it, then one of sights and sounds."
    torch.manual_seed(1)
    heard, seen = hubert(mask_emb=True), AVHubert(avhubert_config('tiny', **SEEING)).eval()
    yield 'its like', heard, hubert(1)
    yield 'narrower', heard, hubert(1, embed_dim=16)
    yield 'WavLM under HuBERT', heard, hubert(1, WavLM)
    yield 'thin', heard, ArmHubert(armhubert_config('armhubert_tiny', own_maps=(True, False), **THIN)).eval()
    yield 'of sights and sounds', seen, AVHubert(avhubert_config('tiny', head='none', **SEEING)).eval()

def batch_of(model):
    "Two clips of another length."
    g = torch.Generator().manual_seed(0)
    if 'wav' in model.inputs:
        wav = torch.randn(2, 6000, generator=g)*0.1
        return dict(wav=wav, lengths=torch.tensor([6000, 4000]), ids=['a', 'b'])
    audio, video = torch.randn(2, 6, 104, generator=g), torch.randn(2, 6, 88, 88, generator=g)
    padding = torch.arange(6) >= torch.tensor([[6], [5]])
    return dict(audio=audio, video=video, padding_mask=padding, lengths=torch.tensor([6, 5]), ids=['a', 'b'])

@pytest.fixture
def all_terms(tmp_path):
    "Maker of a sum of all terms that need no heads, of one teacher."
    def make(teacher):
        batch = batch_of(teacher)
        write_codebook(tmp_path/'book', fit_codebook(teacher, [batch], 1, 4))
        clusters = ClusterPrediction(codebook=str(tmp_path/'book'), spans=SPANS, final_dim=8, weight=0.1)
        gram, masked = Gram(attention=1., scale='cosine', weight=2.), Masked(spans=SPANS, drawn=1)
        return Layers(groups=((0,), (1, 2))), gram, masked, clusters
    return make

PAIRS = list(students())

@pytest.mark.parametrize('name, teacher, student', PAIRS, ids=[name for name, *_ in PAIRS])
def test_all_terms_at_once(all_terms, name, teacher, student):
    terms = all_terms(teacher)
    stage = Stage(Distill(Regularisation(), terms=terms), FIT)
    first, last = (DistillTraining(stage, deepcopy(student), teacher) for _ in range(2))
    batch = batch_of(teacher)
    assert overfit(last, batch, 12) < overfit(first, batch, 1)
    torch.manual_seed(0)
    found = last.losses(batch)
    kinds = {'layers': 1., 'gram': 2., 'masked': 1., 'clusters': 0.1}
    torch.testing.assert_close(found['total'].detach(), sum(weight*found[kind] for kind, weight in kinds.items()))
    assert {'l1', 'gram_intra_layer', 'hidden_last', 'seen_lower', 'accuracy'} <= set(found)
    assert all(torch.as_tensor(x).isfinite() for x in found.values())
    torch.manual_seed(0)
    again = last.losses(batch)
    assert all(torch.equal(torch.as_tensor(found[k]), torch.as_tensor(again[k])) for k in found)

METHODS = {
    'pruning': (Gating(units=('conv', 'head', 'ffn'), target=0.3, warmup=2, lr=0.1),),
    'merging': (Merging('QKV', step=2),),
    'pruning+merging': (Gating(units=('head', 'ffn'), target=0.3, warmup=2, lr=0.1), Merging('QKV', step=2)),
    'magnitude': (Magnitude(0.5),),
    'reuse+pruning': (Reuse(), Gating(units=('ffn',), target=0.1, warmup=2, lr=0.1)),
}

@pytest.mark.parametrize('methods', METHODS.values(), ids=METHODS)
def test_beside_methods(all_terms, methods):
    "The student is compressed while it is asked for everything, and reads with and without holes afterwards."
    teacher = hubert(mask_emb=True)
    stage = Stage(Distill(Regularisation(), terms=all_terms(teacher)), FIT, methods)
    task = DistillTraining(stage, hubert(1), teacher)
    overfit(task, batch_of(teacher), 5)
    assert set(task.finish()) == {m.kind for m in methods}
    task.running = torch.nn.ModuleList()
    assert task.eval().losses(batch_of(teacher))['total'].isfinite()

def test_beside_transcripts():
    "A frozen encoder takes no gradient by any pass; masks of fine-tuning are those of its own pass alone."
    teacher = hubert(mask_emb=True, vocab_size=9)
    batch = batch_of(teacher) | {'tokens': torch.tensor([[5, 6, 2], [7, 2, 1]])}
    terms = (Masked(spans=SPANS), Gram(scale='dim'), Logits(decoder=0., ctc_head=1.))
    task = Finetune(ctc_weight=1., mask_time=(0.3, 2), freeze_updates=3, terms=terms)
    training = FinetuneTraining(Stage(task, FIT), hubert(1, vocab_size=9), teacher=teacher).train()
    found = training.losses(batch)
    found['total'].backward()
    assert all(p.grad is None for p in training.model.encoder.parameters())
    assert training.model.ctc_head.weight.grad is not None
    torch.testing.assert_close(found['total'], found['text'] + found['masked'] + found['gram'] + found['logits'])
    free = Stage(Finetune(ctc_weight=1., terms=terms), FIT)
    first, last = (FinetuneTraining(free, hubert(1, vocab_size=9), teacher=teacher) for _ in range(2))
    assert overfit(last, batch, 12) < overfit(first, batch, 1)
