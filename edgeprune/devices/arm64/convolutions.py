

def check_convolutions(file, model, counted):
    pass
