"""What spans the rooms: what is promised to TPPs, banks and operators, and the shape of the house."""
