"Hidden states of random models equal those of `transformers`; padded batches equal its single clips."
import re
import pytest, torch
from avcomp.models.hubert import hubert_config

tf = pytest.importorskip('transformers')

RENAME = [   # theirs: ours
    (r'^masked_spec_embed$', 'mask_emb'),
    (r'^feature_extractor\.conv_layers\.(\d+)\.layer_norm', r'frontend.convs.\1.norm'),
    (r'^feature_extractor\.conv_layers\.', 'frontend.convs.'),
    (r'^feature_projection\.layer_norm', 'feature_norm'),
    (r'^feature_projection\.projection', 'feature_proj'),
    (r'pos_conv_embed\.conv\.parametrizations\.weight\.original0', 'pos_conv.weight_g'),
    (r'pos_conv_embed\.conv\.parametrizations\.weight\.original1', 'pos_conv.weight_v'),
    (r'pos_conv_embed\.conv', 'pos_conv'),
    (r'^encoder\.layer_norm', 'encoder.norm'),
    (r'\.layer_norm\.', '.attn_norm.'),
    (r'\.final_layer_norm\.', '.ffn_norm.'),
    (r'feed_forward\.intermediate_dense', 'fc1'),
    (r'feed_forward\.output_dense', 'fc2'),
    (r'layers\.0\.attention\.rel_attn_embed', 'rel_embed'),
    (r'\.attention\.gru_rel_pos_linear', '.self_attn.gate_proj'),
    (r'\.attention\.gru_rel_pos_const', '.self_attn.gate_const'),
    (r'\.attention\.', '.self_attn.'),
]
KINDS = {
    'hubert': (tf.HubertModel, tf.HubertConfig),
    'wav2vec2': (tf.Wav2Vec2Model, tf.Wav2Vec2Config),
    'wavlm': (tf.WavLMModel, tf.WavLMConfig),
}
NAMES = {'hubert': 'hubert_base', 'wav2vec2': 'wav2vec2_base', 'wavlm': 'wavlm_base_plus'}
TINY = dict(conv_dim=(32,)*7, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4)
BASE, OURS_BASE = dict(num_hidden_layers=2), dict(num_layers=2)   # as wide as published
OURS_TINY = dict(conv_dims=(32,)*7, embed_dim=64, ffn_dim=96, num_layers=3, num_heads=4, pos_kernel=16, pos_groups=4)


def pair(family, norm, tiny):
    "The same random weights in both libraries."
    torch.manual_seed(0)
    large = norm == 'layer'
    model_cls, config_cls = KINDS[family]
    kind = dict(feat_extract_norm=norm, conv_bias=large, do_stable_layer_norm=large, feat_extract_activation='gelu')
    theirs = model_cls(config_cls(**kind, **TINY if tiny else BASE)).eval()
    with torch.no_grad():
        for n, p in theirs.named_parameters():
            if any(part in n for part in ('norm', 'const', 'rel_attn_embed')) or n.endswith('bias'):
                p.add_(torch.randn_like(p)*.1)
    kind = dict(conv_norm=norm, conv_bias=large, norm_first=large, mask_emb=True)
    config = hubert_config(NAMES[family], **kind, **OURS_TINY if tiny else OURS_BASE)
    ours, state = config.model_cls(config).eval(), {'frontend.scale': torch.ones(config.conv_dims[-1])}
    for name, t in theirs.state_dict().items():
        for old, new in RENAME: name = re.sub(old, new, name)
        state[name] = t.flatten() if name.endswith('gate_const') else t
    state |= {n: t for n, t in ours.state_dict().items() if n.endswith('head_ids')}
    ours.load_state_dict(state)
    return ours, theirs


@pytest.mark.parametrize('tiny', [True, False], ids=['tiny', 'base'])
@pytest.mark.parametrize('norm', ['group', 'layer'])
@pytest.mark.parametrize('family', list(KINDS))
def test_hidden_states(family, norm, tiny):
    ours, theirs = pair(family, norm, tiny)
    lengths = torch.tensor([16000, 11000] if tiny else [8000, 6500])
    wav = torch.randn(2, lengths[0])*.1
    tol = dict(rtol=0, atol=1e-5 if tiny else 1e-4)
    with torch.no_grad():
        out = ours(wav, lengths)
        for i, n in enumerate(lengths.tolist()):
            ref = theirs(wav[i:i+1, :n], output_hidden_states=True)
            T, states = ours.num_frames(n), ref.hidden_states
            assert states[1].shape[1] == T and len(states) == len(out.hidden_states)
            for k in range(1, len(states)):
                torch.testing.assert_close(out.hidden_states[k][i, :T], states[k][0], **tol)
            torch.testing.assert_close(out.last[i, :T], ref.last_hidden_state[0], **tol)


@pytest.mark.parametrize('family', list(KINDS))
def test_masked_frames(family):
    ours, theirs = pair(family, 'group', True)
    wav, mask = torch.randn(1, 8000), torch.zeros(1, 24, dtype=torch.bool)
    mask[:, 4:9] = True
    theirs.train()                                    # it masks in training only
    for m in theirs.modules():
        if isinstance(m, torch.nn.Dropout): m.p = 0.
    theirs.config.layerdrop = theirs.config.attention_dropout = 0.
    for m in theirs.modules():
        if hasattr(m, 'dropout') and isinstance(m.dropout, float): m.dropout = 0.
    with torch.no_grad(): got, want = ours(wav, mask=mask).last, theirs(wav, mask_time_indices=mask).last_hidden_state
    torch.testing.assert_close(got, want, rtol=0, atol=1e-5)
