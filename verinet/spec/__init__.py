"""Properties: their normal form, VNN-LIB readers and a writer, exact checks, and input regions."""

from verinet.spec.exact import ExactProperty as ExactProperty
from verinet.spec.exact import holds_exactly as holds_exactly
from verinet.spec.exact import margin as margin
from verinet.spec.property import Box as Box
from verinet.spec.property import Clause as Clause
from verinet.spec.property import Property as Property
from verinet.spec.property import Query2 as Query2
from verinet.spec.property import Rows as Rows
from verinet.spec.property import Variable2 as Variable2
from verinet.spec.reader import parse_property as parse_property
from verinet.spec.reader import read_property as read_property
from verinet.spec.regions import box as box
from verinet.spec.regions import linf_ball as linf_ball
from verinet.spec.writer import to_vnnlib1 as to_vnnlib1
