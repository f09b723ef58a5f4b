"""Properties: their normal form, VNN-LIB readers and writers, a builder, exact checks, and input regions."""

from verinet.spec.build import Affine as Affine
from verinet.spec.build import Claim as Claim
from verinet.spec.build import all_of as all_of
from verinet.spec.build import any_of as any_of
from verinet.spec.build import outputs as outputs
from verinet.spec.build import robustness as robustness
from verinet.spec.build import show as show
from verinet.spec.exact import ExactProperty as ExactProperty
from verinet.spec.exact import holds_exactly as holds_exactly
from verinet.spec.exact import margin as margin
from verinet.spec.property import Box as Box
from verinet.spec.property import Clause as Clause
from verinet.spec.property import Layout as Layout
from verinet.spec.property import Network2 as Network2
from verinet.spec.property import Property as Property
from verinet.spec.property import Query2 as Query2
from verinet.spec.property import Rows as Rows
from verinet.spec.property import Variable2 as Variable2
from verinet.spec.reader import parse_property as parse_property
from verinet.spec.reader import read_property as read_property
from verinet.spec.regions import box as box
from verinet.spec.regions import linf_ball as linf_ball
from verinet.spec.writer import to_vnnlib1 as to_vnnlib1
from verinet.spec.writer import to_vnnlib2 as to_vnnlib2
