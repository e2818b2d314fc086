"""Measuring what a model detects."""

from .coco import FastCOCOEvaluator

__all__ = ["FastCOCOEvaluator"]
