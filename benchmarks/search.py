"""Joint CTC and attention beam search against one hypothesis at a time without caches, in turn:

    python -m benchmarks.search"""
import argparse, math, statistics
from dataclasses import replace
import torch
from avcomp.evaluate.cost import ratios, time_in_turn, use_threads
from avcomp.models.contract import Output
from avcomp.models.ctc import CTCScorer
from avcomp.models.recogniser import AUTO_AVSR
from avcomp.models.scorers import DecoderScorer
from avcomp.models.search import beam_search
from avcomp.models.vsr import VSR, vsr_config


def extend_prefix(x, n, b, text, tokens, blank):
    "CTC's n, b and psi of a text and each of some tokens, frame by frame: x (T, V), n and b (T+1,)."
    again = torch.tensor([text[-1:] == [t] for t in tokens.tolist()], dtype=torch.bool)
    before = torch.where(again, b[:, None], torch.logaddexp(n, b)[:, None])   # (T+1, M)
    ns, bs = [torch.full((len(tokens),), -math.inf)], [torch.full((len(tokens),), -math.inf)]
    psi = torch.full((len(tokens),), -math.inf)
    for t, frame in enumerate(x):
        psi = torch.logaddexp(psi, before[t] + frame[tokens])
        ns.append(torch.logaddexp(ns[t], before[t]) + frame[tokens])
        bs.append(torch.logaddexp(ns[t], bs[t]) + frame[blank])
    return torch.stack(ns), torch.stack(bs), psi

def plain_search(says, x, vocab, search, limit, nbest=1):
    "One clip, one hypothesis at a time: `says(text)` reads all of a text, x (T, V) are log-probabilities of frames."
    n, w, eos = search.beam_size, search.ctc_weight, vocab.eos
    blanks = torch.cat([torch.zeros(1), x[:, vocab.blank].cumsum(0)])
    live, ended = [(0., [], torch.full_like(blanks, -math.inf), blanks, 0.)], []
    for step in range(limit + 1):
        candidates = []
        for score, text, ns, bs, psi in live:
            logp = says([vocab.sos, *text])
            tokens = logp.topk(min(int(search.pre_beam*n), len(logp))).indices
            tokens = tokens[(tokens != eos) & (tokens != vocab.blank)]
            end = 0. if search.cut and step == limit else (
                (1-w)*logp[eos].item() + w*(torch.logaddexp(ns[-1], bs[-1]).item() - psi))
            if step >= search.min_len or step == limit: candidates.append((score + end, [*text, eos], ns, bs, psi))
            if step == limit: continue
            new_n, new_b, new_psi = extend_prefix(x, ns, bs, text, tokens, vocab.blank)
            totals = score + (1-w)*logp[tokens] + w*(new_psi - psi)
            rows = zip(totals.tolist(), tokens.tolist(), new_n.T, new_b.T, new_psi.tolist())
            candidates += [(total, [*text, t], a, b, p) for total, t, a, b, p in rows if total > -math.inf]
        best = sorted(candidates, key=lambda c: -c[0])[:n]
        ended += [(c[0]/len(c[1])**search.len_penalty, c[1]) for c in best if c[1][-1] == eos]
        ended.sort(key=lambda c: -c[0])
        live = [c for c in best if c[1][-1] != eos]
        least = ended[nbest-1][0] if len(ended) >= nbest else -math.inf
        if not live or live[0][0]/(limit + 1)**search.len_penalty <= least: break
    return ended[:nbest]


def clips_of(B, T, V, D, device):
    "Encoded clips, and frames of which one in six says a token, as those of a trained CTC head do."
    x = torch.randn(B, T, V, device=device)
    x[..., 0] += 14
    said = torch.randint(1, V-1, (B, len(x[0, ::6]), 1), device=device)
    x[:, ::6] += torch.zeros_like(x[:, ::6]).scatter_(2, said, 16)
    return Output([], torch.randn(B, T, D, device=device)), x.log_softmax(-1)

def timed(times):
    for name, (low, mid, high) in ratios(times).items():
        print(f'  {name:34}  {statistics.median(times[name]):9.1f} ms   '
              f'ratio {mid:6.3f} ({low:.3f} to {high:.3f})   {1/mid:6.2f} times as fast')

@torch.inference_mode()
def main(size='base_s', frames=100, tokens=20, beam_size=40, clips=8, repeats=3, threads=2, device='cpu'):
    torch.manual_seed(0)
    model, search = VSR(vsr_config(size)).eval().to(device), replace(AUTO_AVSR, beam_size=beam_size)
    V, D, vocab, decoder = model.config.vocab_size, model.config.embed_dim, model.vocab, model.decoder
    out, x = clips_of(clips, frames, V, D, device)
    def ours(B):
        some = Output([], out.last[:B])
        scorers = [(DecoderScorer(decoder, some), 1-search.ctc_weight),
                   (CTCScorer(x[:B], some.valid, vocab), search.ctc_weight)]
        return beam_search(scorers, torch.full((B,), tokens, device=device), vocab, search)
    def plainly():
        memory, row = decoder.memory(out.last[:1]), x[0].cpu()
        def says(text): return decoder(torch.tensor([text], device=device), memory)[0][0, -1].log_softmax(-1).cpu()
        return plain_search(says, row, vocab, search, tokens)
    with use_threads(threads):
        ((hyp,),), ((score, text),) = ours(1), plainly()
        assert list(hyp.tokens) == text and abs(hyp.score - score) < 1e-2, (hyp, score, text)
        print(f'{size}, {frames} frames, {V} tokens, beam {beam_size}, at most {tokens} tokens, {device}, {threads} '
              f'threads: both find the same {len(text)} tokens')
        timed(time_in_turn({'one hypothesis at a time': plainly, 'avcomp': lambda: ours(1)}, repeats, warmup=0))
        timed(time_in_turn({f'avcomp, one clip {clips} times': lambda: [ours(1) for _ in range(clips)],
                            f'avcomp, {clips} clips at once': lambda: ours(clips)}, repeats, warmup=0))


if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--size', default='base_s')
    p.add_argument('--frames', type=int, default=100)
    p.add_argument('--tokens', type=int, default=20)
    p.add_argument('--beam-size', type=int, default=40)
    p.add_argument('--clips', type=int, default=8)
    p.add_argument('--repeats', type=int, default=3)
    p.add_argument('--threads', type=int, default=2)
    p.add_argument('--device', default='cpu')
    main(**vars(p.parse_args()))
