"""Fine-tuning on one's own labelled images: training with sane defaults, judged before and after, on one page."""
