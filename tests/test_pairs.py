"Every two methods of compression, in both orders, on every family: promises are kept, or the second is refused."
import pytest
from avcomp.compress.pairs import TRIALS, try_pairs
from tiny import FORMS, build, clips_of

REFUSED = {   # (first, second): how the refusal ends
    ('gates', 'reuse'): 'reuse maps first and prune heads after it',
    ('magnitude', 'merge'): 'merge first, then prune the merged model by magnitude',
    **{('int8', second): 'quantize_dynamic_ comes last: take the model from before it'
       for second in TRIALS if second != 'int8'},
}

@pytest.mark.parametrize('form', FORMS)
def test_pairs(form):
    model = build(form)
    found = {(p.first, p.second): p for p in try_pairs(model, clips_of(model))}
    assert len(found) == 20 and {pair: p.broken for pair, p in found.items() if p.broken} == {}
    told = {pair: p.refused for pair, p in found.items() if p.refused}
    tied = not all(model.bare.config.own_maps)   # layers that reuse maps already lose heads together
    assert told.keys() == REFUSED.keys() - ({('gates', 'reuse')} if tied else set())
    assert [pair for pair, why in told.items() if not why.endswith(REFUSED[pair])] == []
