"Checkpoints that are cut short, incomplete, of another family or hostile end in an error that names the fault."
import json, os, shutil
from pathlib import Path
import pytest, torch
from safetensors.torch import load_file, save_file
from avcomp.models.checkpoints import load_model

GOLDEN = Path(__file__).parent/'golden'
FILES = {
    'fairseq': (GOLDEN/'hubert/fairseq_base/checkpoint.pt', 'model'),
    'dphubert dense': (GOLDEN/'dphubert/wavlm/unpruned.pth', 'state_dict'),
    'dphubert pruned': (GOLDEN/'dphubert/hubert_emptied_branches/pruned.pth', 'state_dict'),
    'armhubert': (GOLDEN/'armhubert/armhubert_pattern_proj/checkpoint.ckpt', 'state_dict'),
}

def hf_folder(to, kind, change=lambda weights: None, config={}):
    "A Hugging Face folder with its weights in one of three ways, and something changed."
    source = GOLDEN/'hubert/hf_wavlm_base'
    weights = load_file(source/'model.safetensors')
    change(weights)
    to.mkdir()
    (to/'config.json').write_text(json.dumps(json.loads((source/'config.json').read_text()) | config))
    if kind == 'sharded':
        names = sorted(weights)
        parts = {f'model-{i}.safetensors': names[i::2] for i in range(2)}
        for file, keys in parts.items(): save_file({k: weights[k] for k in keys}, to/file)
        where = {k: f for f, keys in parts.items() for k in keys}
        (to/'model.safetensors.index.json').write_text(json.dumps({'weight_map': where}))
    elif kind == 'pytorch_model.bin': torch.save(weights, to/kind)
    else: save_file(weights, to/kind)
    return to

KINDS = 'model.safetensors', 'pytorch_model.bin', 'sharded'
CHANGES = {   # what is done to the weights, what the error says
    'missing': (lambda w: w.pop('encoder.layers.1.feed_forward.output_dense.bias'),
                r'1 missing \(encoder.layers.1.fc2.bias\)'),
    'too many': (lambda w: w.update(stranger=torch.ones(2)), r'1 unexpected \(stranger\)'),
    'shape': (lambda w: w.update({'encoder.layer_norm.bias': torch.ones(5)}),
              r'encoder.layer_norm.bias: expected \(32,\), got \(5,\)'),
    'twice': (lambda w: w.update({'encoder.pos_conv_embed.conv.weight_g': torch.ones(1, 1, 32)}),
              'two tensors for encoder.pos_conv.weight_g'),
}
@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('name', CHANGES)
def test_tensors_that_do_not_fit(tmp_path, kind, name):
    change, told = CHANGES[name]
    with pytest.raises(ValueError, match=told): load_model(hf_folder(tmp_path/'hf', kind, change))

@pytest.mark.parametrize('kind', KINDS)
def test_cut_off_folder(tmp_path, kind):
    folder = hf_folder(tmp_path/'hf', kind)
    assert load_model(folder).family == 'wavlm'
    file = folder/('model-1.safetensors' if kind == 'sharded' else kind)
    data = file.read_bytes()
    for n in (0, 7, 1000, len(data)-50):
        file.write_bytes(data[:n])
        with pytest.raises(ValueError, match='cut short'): load_model(folder)
    file.unlink()
    told = 'has no model-1.safetensors' if kind == 'sharded' else 'has no weights'
    with pytest.raises(ValueError, match=told): load_model(folder)

OTHERS = {   # settings of config.json, what the error says
    'another family': (dict(model_type='bert'), "type 'bert'; avcomp reads"),
    'no family': (dict(model_type=None), 'type None'),
    'adapter': (dict(add_adapter=True), 'add_adapter.*not supported'),
    'activation': (dict(hidden_act='relu'), "'hidden_act': 'relu'"),
    'width': (dict(intermediate_size=100), r'expected \(100, 32\), got \(96, 32\)'),
    'heads': (dict(num_attention_heads=5), 'multiple of num_heads'),
    'norm': (dict(feat_extract_norm='batch'), "conv_norm is one of .*'batch'"),
    'blocks': (dict(conv_stride=[5, 2]), 'one entry per block'),
    'text for a number': (dict(hidden_size='32'), "hf/config.json has hidden_size='32' of type str; expected type int"),
    'number for a flag': (dict(conv_bias=1), 'conv_bias=1 of type int; expected type bool'),
    'nothing': (dict(hidden_dropout=None), 'hidden_dropout=None of type NoneType; expected type float'),
    'text in a list': (dict(conv_dim=[16]*6 + ['24']), r"conv_dim=\[16, .*'24'\] of type list"),
}
@pytest.mark.parametrize('name', OTHERS)
def test_settings_that_do_not_fit(tmp_path, name):
    config, told = OTHERS[name]
    with pytest.raises(ValueError, match=told): load_model(hf_folder(tmp_path/'hf', 'model.safetensors', config=config))

def test_config_that_is_none(tmp_path):
    folder = hf_folder(tmp_path/'hf', 'model.safetensors')
    for text, told in (
        ('{"a": 1}', 'no format that is known here'),
        ('[1]', 'expected a JSON object'),
        ('{"model_ty', 'cannot read'),
    ):
        (folder/'config.json').write_text(text)
        with pytest.raises(ValueError, match=told): load_model(folder)
    with pytest.raises(ValueError, match='pass the folder'): load_model(folder/'model.safetensors')

@pytest.mark.parametrize('name', FILES)
def test_files(tmp_path, name):
    source, entry = FILES[name]
    file = Path(shutil.copy(source, tmp_path))
    data = file.read_bytes()
    for n in (0, 10, 1000, len(data)//2, len(data)-100):
        file.write_bytes(data[:n])
        with pytest.raises(ValueError, match='cut short'): load_model(file)
    def changed(f):
        content = torch.load(source, weights_only=True)
        f(content, content[entry])
        torch.save(content, file)
        return file
    some = next(k for k in torch.load(source, weights_only=True)[entry] if 'out_proj.weight' in k)
    def refused(f, told):
        with pytest.raises(ValueError, match=told): load_model(changed(f))
    refused(lambda c, w: w.pop(some), '1 missing')
    refused(lambda c, w: w.update(stranger=torch.ones(1)), r'1 unexpected \(stranger\)')
    refused(lambda c, w: w.update({some: torch.ones(2, 2)}), r'got \(2, 2\)')
    refused(lambda c, w: c.pop(entry), 'no format that is known here')
    if name == 'fairseq':
        refused(lambda c, w: c['cfg']['model'].update(_name='transformer_lm'), "fairseq calls 'transformer_lm'")
        refused(lambda c, w: c['cfg']['model'].update(conv_feature_layers='exit()'), 'cannot read the convolutions')
        told = f"{file.name}.*encoder_layers='2' of type str"
        refused(lambda c, w: c['cfg']['model'].update(encoder_layers='2'), told)
    elif name == 'armhubert':
        refused(lambda c, w: c.pop('hyper_parameters'), "no settings .*section 'distiller'")
        def set_(**fields): return lambda c, w: c['hyper_parameters']['cfg']['distiller'].update(fields)
        refused(set_(reuse_pattern='__import__("os")'), 'cannot read reuse_pattern')
        refused(set_(reuse_pattern='[False, True] * 2 + [True]'), 'the first layer makes its own map')
        refused(set_(encoder_layers='5'), f"{file.name}.*encoder_layers='5' of type str")
        refused(lambda c, w: w.update({'student_model.encoder.layers.1.self_attn.q_proj.weight': torch.ones(48, 48)}),
                r'1 unexpected \(student_model.encoder.layers.1.self_attn.q_proj.weight\)')
    else:
        refused(lambda c, w: c['config'].pop('encoder_embed_dim'), r"without \['encoder_embed_dim'\]")
        told = f"{file.name}.*encoder_embed_dim='32' of type str"
        refused(lambda c, w: c['config'].update(encoder_embed_dim='32'), told)

class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.system, (f'touch {self.mark}',)

EVIL = {   # what stands in a file beside something that wants to run
    'fairseq': lambda evil: {'model': {}, 'cfg': evil},
    'dphubert': lambda evil: {'state_dict': {}, 'config': evil},
    'armhubert': lambda evil: {'state_dict': {'student_model.mask_emb': torch.ones(1)}, 'optimizer_states': [evil]},
}

@pytest.mark.parametrize('where', [*EVIL, 'pytorch_model.bin', 'shard'])
def test_pickle_that_wants_to_run(tmp_path, where):
    mark = tmp_path/'owned'
    if where in EVIL:
        path = tmp_path/'evil.pt'
        torch.save(EVIL[where](Evil(mark)), path)
    else:
        path = hf_folder(tmp_path/'hf', 'pytorch_model.bin')
        torch.save({'weight': Evil(mark)}, path/'pytorch_model.bin')
        if where == 'shard':
            (path/'pytorch_model.bin').rename(path/'a.bin')
            (path/'pytorch_model.bin.index.json').write_text('{"weight_map": {"weight": "a.bin"}}')
    with pytest.raises(ValueError, match='system.*not executed'): load_model(path)
    assert not mark.exists()
