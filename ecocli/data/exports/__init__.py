"""What drawing tools export, and how it becomes COCO's panoptic format."""
