"""Tests of trainers/; all but those of the tasks need torch."""
