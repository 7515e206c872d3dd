"""OpenVLA (Kim et al. 2024) in torch: the released 7B model from a folder of its files, and small ones of its class."""
