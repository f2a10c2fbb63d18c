"What the documented commands name, in tiny: corpora in the layouts of other projects, noise, checkpoints, tokenizers."
import json
import shutil
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file

from avcomp.data.clips import SPLITS, load_cuts
from avcomp.data.corpora import open_corpus
from avcomp.data.corpora.autoavsr import write_autoavsr_list
from avcomp.data.corpora.avhubert import write_avhubert_lists
from avcomp.data.corpora.musan import prepare_musan
from avcomp.data.sound import read_wav, write_wav
from avcomp.data.synthetic import make_corpus
from avcomp.data.tokens import Tokenizer, train_tokenizer

GOLDEN = Path(__file__).parent/'golden'
LAYERS = 4   # of the stand-ins: presets in smoke size follow the second and the fourth
PARTS = {    # of LibriSpeech -> split, and which of its utterances
    'train-clean-100': ('train', slice(0, 1)),
    'train-clean-360': ('train', slice(1, 2)),
    'train-other-500': ('train', slice(2, 3)),
    'dev-clean': ('valid', slice(0, 1)),
    'test-clean': ('test', slice(0, 1)),
}
MINI = {'train-clean-5': ('train', slice(0, 3)), 'dev-clean-2': ('valid', slice(0, 1))}   # Mini LibriSpeech


def make_stand_ins(root):
    "All of them, below one folder."
    corpus = make_corpus(root/'corpus', clips=(3, 1, 1), noise_files=(1, 1, 1), num_workers=0)
    clips = {split: list(load_cuts(corpus, split)) for split in SPLITS}
    tokenizer = make_tokenizers(root, [c.supervisions[0].text for c in clips['train']])
    for split in SPLITS:
        write_avhubert_lists(clips[split], root/'data'/'lrs3'/'433h', split)
        path = write_autoavsr_list(clips[split], root/'data'/'autoavsr', split, tokenizer, 'lrs3')
        path.rename(path.with_name(f'lrs3_{split}_transcript_lengths_seg16s.csv'))
    make_sounds(root, {split: joined(some) for split, some in clips.items()})
    make_musan(root/'musan')
    prepare_musan(root/'musan', root/'data'/'musan', mixtures={'train': 2, 'valid': 1, 'test': 1}, voices=2)
    make_avhubert(root/'models'/'base_vox_iter5.pt')
    bare = make_hubert(root/'facebook'/'hubert-base-ls960')
    for name, symbols in SPELT.items(): make_ctc(bare, root/'data'/name, symbols)


def make_tokenizers(root, texts):
    "One of a few pieces, where recipes look for it."
    path = root/'data'/'spm1000.model'
    train_tokenizer(texts, path, 40)
    (root/'data'/'lrs3').mkdir(exist_ok=True)
    shutil.copy(path, root/'data'/'lrs3'/'spm1000.model')
    return Tokenizer(path.read_bytes())


def joined(cuts):
    "Sentences of two clips, of more than two seconds: (samples, words)."
    waves = [read_wav(c.recording.sources[0].source) for c in cuts]
    words = [c.supervisions[0].text for c in cuts]
    return [(np.concatenate([waves[i - 1], waves[i]]), f'{words[i - 1]} {words[i]}') for i in range(len(cuts))]


def make_part(folder, speaker, utterances):
    "A part of LibriSpeech: one speaker, one chapter, upper-case words."
    chapter, lines = folder/f'{speaker}'/'7', []
    chapter.mkdir(parents=True)
    for n, (wav, words) in enumerate(utterances):
        sf.write(chapter/f'{speaker}-7-{n:04d}.flac', wav, 16000)
        lines.append(f'{speaker}-7-{n:04d} {words.upper()}\n')
    (chapter/f'{speaker}-7.trans.txt').write_text(''.join(lines))


def make_sounds(root, sounds):
    "The same utterances as LibriSpeech, as lists of its files, and as a folder of files."
    libri = root/'data'/'LibriSpeech'
    for place, parts in ((libri, PARTS), (root/'data'/'mini', MINI)):
        for k, (part, (split, some)) in enumerate(parts.items(), 1): make_part(place/part, k, sounds[split][some])
    for split, cuts in open_corpus('librispeech', libri).cuts.items():
        files = [Path(c.recording.sources[0].source) for c in cuts]
        rows = [f'{f.relative_to(libri)}\t{sf.info(f).frames}\n' for f in files]
        (root/'data'/'tsv').mkdir(exist_ok=True)
        (root/'data'/'tsv'/f"{'train960' if split == 'train' else split}.tsv").write_text(f'{libri}\n' + ''.join(rows))
    for split, some in sounds.items():
        for n, (wav, words) in enumerate(some):
            write_wav(root/'data'/'audio'/split/f'{n}.wav', wav)
            (root/'data'/'audio'/split/f'{n}.txt').write_text(words)


def make_musan(folder):
    "Three recordings of each kind, all hiss."
    random = np.random.default_rng(0)
    for kind in ('music', 'noise', 'speech'):
        for n in range(3):
            write_wav(folder/kind/'free'/f'{kind}-{n}.wav', random.normal(0, 0.1, 56000))


def deeper(state, layers):
    "More layers for a model: those that it has, again."
    found, key = dict(state), 'encoder.layers.'
    held = 1 + max(int(name.split(key)[1].split('.')[0]) for name in state if key in name)
    for i in range(held, layers):
        old, new = f'{key}{i % held}.', f'{key}{i}.'
        found |= {name.replace(old, new): value.clone() for name, value in state.items() if old in name}
    return found


def make_avhubert(path):
    "A file of fairseq's AV-HuBERT, pre-trained."
    content = torch.load(GOLDEN/'avhubert'/'pretrain_concat_prenorm'/'checkpoint.pt', weights_only=False)
    content['model'] = deeper(content['model'], LAYERS)
    content['cfg']['model']['encoder_layers'] = LAYERS
    path.parent.mkdir()
    torch.save(content, path)


def make_hubert(folder):
    "A folder of the hub with a HuBERT that does not write."
    source = GOLDEN/'hubert'/'hf_hubert_base'
    config = json.loads((source/'config.json').read_text()) | dict(num_hidden_layers=LAYERS)
    folder.mkdir(parents=True)
    (folder/'config.json').write_text(json.dumps(config))
    save_file(deeper(load_file(source/'model.safetensors'), LAYERS), folder/'model.safetensors', {'format': 'pt'})
    return folder


LETTERS = [*"abcdefghijklmnopqrstuvwxyz'", '|']
SPELT = {   # folder -> symbols of a CTC head
    'ctc_of_tutorials': [*LETTERS, '[UNK]', '[PAD]'],       # the blank is the last class
    'ctc_unnamed': [*LETTERS, '[UNK]', '[PAD]'],            # nobody knows what its classes spell
}


def make_ctc(bare, folder, symbols):
    "The same with a CTC head of letters."
    blank = next(i for i, s in enumerate(symbols) if s.lower().strip('<[]>') == 'pad')
    config = json.loads((bare/'config.json').read_text())
    config |= dict(architectures=['HubertForCTC'], vocab_size=len(symbols), pad_token_id=blank)
    state = {f'hubert.{name}': value for name, value in load_file(bare/'model.safetensors').items()}
    state['lm_head.weight'] = torch.zeros(len(symbols), config['hidden_size'])
    state['lm_head.bias'] = torch.zeros(len(symbols))
    folder.mkdir()
    (folder/'config.json').write_text(json.dumps(config))
    if folder.name != 'ctc_unnamed': (folder/'vocab.json').write_text(json.dumps({s: i for i, s in enumerate(symbols)}))
    save_file(state, folder/'model.safetensors', {'format': 'pt'})
