"""Softmax and its relatives: functions of several entries of one tensor."""
