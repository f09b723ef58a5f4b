"""Tables and one-file HTML reports of batch runs."""

from verinet.report.data import Results as Results
from verinet.report.data import load_others as load_others
from verinet.report.data import load_run as load_run
from verinet.report.page import page as page
