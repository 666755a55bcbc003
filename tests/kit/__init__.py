"""What tests are made of: small models of the family, and the plain PyTorch that they are held against."""
