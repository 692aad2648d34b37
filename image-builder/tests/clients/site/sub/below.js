fetch("../data/small.json").then((answer) => answer.json()).then((small) => document.body.dataset.small = small.word);
