"""Benchmarks of posterior samplers that others designed, with our rows: `invgen bench study outside levy` or `bipsda`."""

from invgen.benchmarks.studies.outside.page import main as main
