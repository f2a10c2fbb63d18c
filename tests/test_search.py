"Joint CTC and attention search: recorded n-best lists and prefix scores (tests/golden/vsr), brute force, and edges."
import json, math
from dataclasses import replace
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from avcomp.core import Vocab
from avcomp.models.checkpoints import load_model
from avcomp.models.contract import Search
from avcomp.models.ctc import CTCScorer, ctc_best_paths, ctc_search, ctc_spans
from avcomp.models.scorers import Scorer
from avcomp.models.search import beam_search
from benchmarks.search import plain_search

GOLDEN = Path(__file__).parent/'golden/vsr'
FILES = {'autoavsr_tiny': 'weights.safetensors', 'autoavsr_tiny_gen1': 'weights_gen1.pth'}
ASKED = {   # name of the list: settings, and clip
    'nbest_single': (dict(), 0),
    'nbest_ctc_weight_0_5': (dict(ctc_weight=0.5), 0),
    'nbest_beam1': (dict(beam_size=1), 0),
    'nbest_clip1_alone': (dict(), 1),
}


def read(case, tmp_path):
    "The model, its clips (B, T, 88, 88) and their lengths, what is expected."
    io, expected = load_file(GOLDEN/case/'io.safetensors'), json.loads((GOLDEN/case/'expected.json').read_text())
    if case == 'autoavsr_tiny': torch.save(load_file(GOLDEN/case/FILES[case]), path := tmp_path/'weights.pth')
    else: path = GOLDEN/case/FILES[case]
    model = load_model(path)
    return model, io['video'][:, :, 0].float(), io['lengths'].tolist(), expected

@pytest.mark.parametrize('case', FILES)
def test_nbest(case, tmp_path):
    "Tokens are equal, and scores to 1e-3; the reference gives texts that end in the last step a second `eos`."
    model, video, lengths, expected = read(case, tmp_path)
    model.search = replace(model.search, beam_size=4, cut=True)   # the reference's beam, and its end at the limit
    eos = model.vocab.eos
    for name, (how, clip) in ASKED.items():
        beam_size = how.get('beam_size', 4)
        found, = model.transcribe(video[clip:clip+1, :lengths[clip]], nbest=beam_size, **how)
        wanted = [w for w in expected[name][:beam_size] if w['score'] > -1e6]
        assert len(found) == len(wanted)
        for h, w in zip(found, wanted):
            text = [t for t in w['yseq'][1:] if t != eos]
            assert list(h.tokens) == [*text, eos]
            assert h.score == pytest.approx(w['score'], abs=1e-3) == pytest.approx(sum(h.positional_scores), abs=1e-3)
            assert len(h.times) == len(text)

@pytest.mark.parametrize('case', FILES)
def test_batched_is_single(case, tmp_path):
    "Clips in a padded batch are found as they are alone: texts, scores and times, with every scorer and beam."
    model, video, lengths, _ = read(case, tmp_path)
    V = model.config.vocab_size
    lm = Bigram(torch.randn(V, V, generator=torch.Generator().manual_seed(0)).log_softmax(-1))
    asks = [dict(beam_size=n, ctc_weight=w, nbest=n) for n in (1, 3) for w in (0., 0.1, 1.)]
    for how in (*asks, dict(nbest=5), dict(lm=lm, beam_size=4, nbest=2), dict(ctc_weight=1., lm=lm, beam_size=4)):
        both = model.transcribe(video, lengths=torch.tensor(lengths), **how)
        for i, n in enumerate(lengths):
            alone, = model.transcribe(video[i:i+1, :n], **how)
            assert [(h.tokens, h.times) for h in alone] == [(h.tokens, h.times) for h in both[i]]
            assert [h.score for h in alone] == pytest.approx([h.score for h in both[i]], abs=1e-4)

class Bigram(Scorer):
    def __init__(self, log_probs): self.log_probs = log_probs   # (V, V)
    def score(self, tokens, state): return self.log_probs[tokens[:, -1]], None

def test_prefix_scores():
    meta, expected = (json.loads((GOLDEN/f'ctc_prefix/{name}.json').read_text()) for name in ('meta', 'expected'))
    x, = load_file(GOLDEN/'ctc_prefix/io.safetensors').values()
    x, eos = x.view(1, meta['T'], meta['V']), meta['eos']
    listens = CTCScorer(x, torch.ones(1, meta['T'], dtype=torch.bool), Vocab(meta['blank'], -1, eos, eos))
    for name, wanted in expected['prefix_scores'].items():
        tokens = torch.tensor([[eos, *(int(t) for t in name.split('_') if t != 'empty')]])
        state, psi = listens.start(1), 0.
        for u in range(tokens.shape[1]):
            y, state = listens.score(tokens[:, :u+1], state)
            if u + 1 < tokens.shape[1]: psi = psi + y[0, tokens[0, u+1]]
        torch.testing.assert_close((psi + y[0])[1:], torch.tensor(wanted)[1:], rtol=0, atol=meta['tolerance'])

def joint(seed, T=8, V=7, batch=2):
    "A bigram model for a decoder, and frames of which some say something."
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, T, V, generator=g)*3
    return torch.randn(V, V, generator=g).log_softmax(-1), x.log_softmax(-1)

@pytest.mark.parametrize('seed', range(6))
def test_equals_a_plain_search(seed):
    "One hypothesis at a time, as in the benchmark: same texts and scores, for any beam, weight, limit and penalty."
    bigrams, x = joint(seed)
    vocab = Vocab(blank=0, pad=-1, sos=6, eos=6)
    valid = torch.arange(8) < torch.tensor([[8], [5]])
    limits = torch.tensor([8, 5] if seed % 2 else [3, 4])
    for n, w, penalty, cut in ((1, 0.1, 0., True), (2, 0.5, 0., False), (4, 0.3, 1., True), (6, 0.9, 0.5, False)):
        search = Search(n, w, penalty, seed % 3, first_come=False, cut=cut)
        found = beam_search([(Bigram(bigrams), 1-w), (CTCScorer(x, valid, vocab), w)], limits, vocab, search, nbest=n)
        for i, hyps in enumerate(found):
            wanted = plain_search(lambda text: bigrams[text[-1]], x[i][valid[i]], vocab, search, limits[i].item(), n)
            assert [list(h.tokens) for h in hyps] == [text for _, text in wanted]
            assert [h.score for h in hyps] == pytest.approx([score for score, _ in wanted], abs=1e-4)

def test_edges():
    "One frame; nothing said; more tokens than frames; equal scores."
    vocab = Vocab(blank=0, pad=-1, sos=4, eos=4)
    search = Search(5, 0.5, 0., 0, first_come=False, pre_beam=0)
    def look(x, decoder, nbest=1, **how):
        valid = torch.ones(x.shape[:2], dtype=torch.bool)
        scorers = [(Bigram(decoder.log_softmax(-1)), 0.5), (CTCScorer(x.log_softmax(-1), valid, vocab), 0.5)]
        return beam_search(scorers, torch.full((len(x),), x.shape[1]), vocab, replace(search, **how), nbest)[0]
    even, silence = torch.zeros(5, 5), torch.tensor([9., 0, 0, 0, 0])
    assert look(silence.expand(1, 6, 5), even)[0].tokens == (4,)                       # the empty text
    assert len(look(silence.expand(1, 6, 5), even, min_len=1)[0].tokens) == 2
    says = torch.tensor([[0., 9, 0, 0, 0]])
    assert look(says[None], even)[0].tokens == (1, 4)                                  # T = 1
    wants = torch.tensor([[0., 9, 0, 0, 0]]).expand(5, 5)                              # a decoder that repeats itself
    found = look(says.expand(1, 4, 5), wants, 5)                                       # 1 fits twice in four frames
    assert max(h.tokens.count(1) for h in found) == 2 and all(math.isfinite(h.score) for h in found)
    spans = ctc_spans(torch.zeros(1, 4, 5), torch.ones(1, 4, dtype=torch.bool), [(1, 1), (1, 1, 1)], [0, 0], 0)
    assert len(spans[0]) == 2 and spans[1] == ()
    tied = look(torch.zeros(1, 3, 5), even, 5)
    assert len({h.tokens for h in tied}) == 5 and tied == sorted(tied, key=lambda h: -h.score)

def test_ctc_alone():
    "The best path in a batch is the one of each clip; with a wide beam, prefix search is at least as probable."
    _, x = joint(0, T=12, batch=3)
    valid = torch.arange(12) < torch.tensor([[12], [7], [1]])
    for row, v, best in zip(x, valid, ctc_best_paths(x, valid, 0)):
        path = row[v].argmax(-1).unique_consecutive()
        assert best.tokens == tuple(path[path != 0].tolist())
        assert best.score == pytest.approx(row[v].amax(-1).sum().item(), abs=1e-5)
        assert ctc_search(row[v], 0, 50)[0].score >= best.score
