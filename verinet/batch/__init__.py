"""Many instances in one resumable run."""

from verinet.batch.instances import Instance as Instance
from verinet.batch.instances import Shard as Shard
from verinet.batch.instances import read_instances as read_instances
from verinet.batch.runner import BatchResult as BatchResult
from verinet.batch.runner import Observer as Observer
from verinet.batch.runner import Snapshot as Snapshot
from verinet.batch.runner import run as run
