"""Everything that fills HANDLERS: importing this module registers what the reader can bound."""

from __future__ import annotations

from verinet.frontends import handlers_arithmetic as handlers_arithmetic
from verinet.frontends import handlers_attention as handlers_attention
from verinet.frontends import handlers_linear as handlers_linear
from verinet.frontends import handlers_logic as handlers_logic
from verinet.frontends import handlers_pooling as handlers_pooling
from verinet.frontends import handlers_power as handlers_power
from verinet.frontends import handlers_quantised as handlers_quantised
from verinet.frontends import handlers_recurrent as handlers_recurrent
from verinet.frontends import handlers_selection as handlers_selection
from verinet.frontends import handlers_shape as handlers_shape
from verinet.frontends import handlers_sorting as handlers_sorting
from verinet.frontends.call import HANDLERS as HANDLERS
