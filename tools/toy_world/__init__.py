"""Making, showing and accepting the toy world.

pretrain.py, show.py, accept.py       re-create the checkpoints; look at the world; its table
train_clip.py, towers.py, pool.py     train a toy CLIP, its towers, the images it sees
captions.py, optimiser.py             captions as token ids; AdamW and Muon
zero_shot.py, export.py               accuracy while it trains; the shipped checkpoint
train_net.py                          toy ResNets
"""
