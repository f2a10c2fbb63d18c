"HuBERT, wav2vec 2.0 and WavLM of Hugging Face and fairseq against numbers of the references (tests/golden/hubert)."
import json, shutil
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file
from avcomp.models.attention import position_buckets
from avcomp.models.checkpoints import load_model, save_model

GOLDEN = Path(__file__).parent/'golden/hubert'
HF = [p.parent.name for p in sorted(GOLDEN.glob('*/config.json'))]
CLOSE = dict(rtol=1e-4, atol=5e-5)

def close(got, want): torch.testing.assert_close(got, want, **CLOSE)

def lengths(case): return torch.tensor(json.loads((GOLDEN/case/'meta.json').read_text())['lengths'])

def folders(case, tmp_path):
    "The recorded folder, and one with the older names of weight norm where they were recorded."
    yield GOLDEN/case
    if (GOLDEN/case/'model_legacy_names.safetensors').exists():
        shutil.copy(GOLDEN/case/'config.json', tmp_path/'config.json')
        shutil.copy(GOLDEN/case/'model_legacy_names.safetensors', tmp_path/'model.safetensors')
        yield tmp_path

@pytest.mark.parametrize('case', HF)
@torch.no_grad()
def test_transformers(case, tmp_path):
    "Clips alone are the truth; with layer norm, where padding does not leak in the reference, so is the padded batch."
    io, n = load_file(GOLDEN/case/'io.safetensors'), lengths(case)
    wav, large = io['input_values'], 'large' in case
    for folder in folders(case, tmp_path):
        model = load_model(folder)
        assert model.family in case and model.left_out == ()
        assert model.config.normalize_wav == large and model.config.mask_emb
        def check(out, prefix, rows):
            for k, state in enumerate(out.hidden_states):
                close(state[rows], io[f'{prefix}.hf_hidden_{k}' if k else f'{prefix}.projection'][rows])
            close(out.last[rows], io[f'{prefix}.last_hidden_state'][rows])
        check(model(wav[:1]), 'full', slice(None))
        out, valid = model(wav, n), io['frame_mask'].bool()
        assert torch.equal(~out.padding_mask, valid)
        check(out, 'padded', valid if large else slice(1))
        single = io['single1.last_hidden_state'][0]
        close(out.last[1, :len(single)], single)
        close(model(wav[1:, :n[1]]).last[0], single)
        if not large: close(model.frontend(wav[:1])[0].T, io['feature_extractor'][0])

FAIRSEQ = [
    ('fairseq_base', 'checkpoint.pt'),
    ('fairseq_base', 'checkpoint_taskstate.pt'),
    ('fairseq_large', 'checkpoint.pt'),
]
@pytest.mark.parametrize('case, file', FAIRSEQ)
@torch.no_grad()
def test_fairseq(case, file, tmp_path):
    io, n, large = load_file(GOLDEN/case/'io.safetensors'), lengths(case), 'large' in case
    model, wav = load_model(GOLDEN/case/file), io['source']
    assert (model.family, model.config.head, model.config.normalize_wav) == ('hubert', 'predict', large)
    for k, state in enumerate((full := model(wav[:1])).hidden_states): close(state, io[f'full.state_{k}'])
    close(full.last, io['full.final'])
    out = model(wav, n)
    close(out.last[1, :io['single1.final'].shape[1]], io['single1.final'][0])
    close(model(wav[1:, :n[1]]).last, io['single1.final'])
    for k, state in enumerate(out.hidden_states): close(state[:1], io[f'padded.state_{k}'][:1])
    again = load_model(save_model(model, tmp_path/'model'))
    assert again.config == model.config and load_model(GOLDEN/case/file, head='none').config.head == 'none'
    for k, v in model.state_dict().items(): torch.testing.assert_close(again.state_dict()[k], v, rtol=0, atol=0)

@pytest.mark.parametrize('case', [c for c in HF if 'wavlm' in c])
def test_position_buckets(case):
    io = load_file(GOLDEN/case/'io.safetensors')
    assert torch.equal(position_buckets(io['bucket.offset_key_minus_query'], 320, 800), io['bucket.index'])
