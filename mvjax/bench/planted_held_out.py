"""The held-out part of the planted set: material and wordings that the checks were not tuned on."""

from mvjax.bench.planted import Material, Part, Scene, Tempting, Wording

REFERENCE, LABEL, NUMBER, SYMBOL = "sibling reference", "sibling label", "sibling number", "sibling symbol"

SCENES = (
    Scene(
        "solids",
        "A workshop makes a crate that is {a} cm by {b} cm by {c} cm, a lid whose parallel sides are {d} cm and {e} cm "
        "at a height of {h} cm, and a frame of {f} cm by {g} cm. Find the volume of the crate, the area of the lid and "
        "the perimeter of the frame.",
        {"a": (13, 29), "b": (14, 28), "c": (15, 27), "d": (20, 38), "e": (40, 58), "h": (14, 26), "f": (31, 67),
         "g": (32, 69)},
        (
            Part("Find the volume of the crate.", "the crate", "the volume of the crate", "a*b*c",
                 ("A box-shaped crate has length times width times height as its volume.",
                  "Multiplying the base, {a} × {b} = {=a*b} cm².",
                  "Times the height this is {=a*b} × {c} = {=a*b*c} cm³.")),
            Part("Find the area of the lid.", "the lid", "the area of the lid", "(d+e)*h/2",
                 ("The lid is a trapezoid.",
                  "Its parallel sides add up to {d} + {e} = {=d+e} cm.",
                  "Half of {=d+e} × {h} is {=(d+e)*h/2} cm².")),
            Part("Find the perimeter of the frame.", "the frame", "the perimeter of the frame", "2*(f+g)",
                 ("The frame is a rectangle of {f} cm by {g} cm.",
                  "Two sides together: {f} + {g} = {=f+g} cm.",
                  "All four sides: 2 × {=f+g} = {=2*(f+g)} cm.")),
        ),
    ),
    Scene(
        "counting",
        "A club has {a} juniors and {b} seniors. A pair is one junior and one senior; a duel is two different seniors; "
        "a desk is drawn for each of {c} juniors on {d} days. How many pairs, duels and draws are there?",
        {"a": (14, 33), "b": (15, 35), "c": (13, 27), "d": (14, 29)},
        (
            Part("Count the pairs.", "the pairs", "the number of pairs", "a*b",
                 ("Each of the {a} juniors can stand with any of the {b} seniors.",
                  "The product rule gives {a} · {b} = {=a*b} pairs.")),
            Part("Count the duels.", "the duels", "the number of duels", "b*(b-1)/2",
                 ("For the duels two of {b} seniors are chosen, the order does not matter.",
                  "There are {b} · {=b-1} = {=b*(b-1)} ordered choices.",
                  "Every duel was counted twice, which leaves {=b*(b-1)} / 2 = {=b*(b-1)/2} duels.")),
            Part("Count the draws.", "the draws", "the number of draws", "c*d",
                 ("On every one of {d} days there are {c} draws.",
                  "That makes {d} · {c} = {=c*d} draws.")),
        ),
    ),
    Scene(
        "savings",
        "Mara borrows ${p} at {q}% simple interest a year for {y} years. Noel puts ${s} aside every month for {m} "
        "months. How much interest does Mara pay, and how much does Noel save?",
        {"p": (21, 79), "q": (3, 9), "y": (14, 19), "s": (31, 87), "m": (17, 29)},
        (
            Part("Compute Mara's interest.", "Mara's loan", "the interest that Mara pays", "p*q*y/100",
                 ("Simple interest is the principal times the rate times the time.",
                  "For Mara the rate is {q}% = {=q/100}.",
                  "Interest = {p} × {=q/100} × {y} = {=p*q*y/100} dollars.")),
            Part("Compute Noel's savings.", "Noel's plan", "the amount that Noel saves", "s*m",
                 ("Noel saves ${s} a month.", "Over {m} months that is {m} × {s} = ${=s*m}.")),
        ),
    ),
    Scene(
        "kitchen",
        "A recipe for {n} guests takes {f} g of flour, {s} g of sugar and {b} g of butter. The cook wants to serve "
        "{k} times as many guests and has to buy each ingredient.",
        {"n": (4, 9), "f": (210, 390), "s": (110, 190), "b": (60, 99), "k": (13, 19)},
        (
            Part("Find the flour to buy.", "the flour", "the weight of the flour", "f*k",
                 ("The flour grows in proportion to the guests.", "So {f} g becomes {f} * {k} = {=f*k} g.")),
            Part("Find the sugar to buy.", "the sugar", "the weight of the sugar", "s*k",
                 ("**Sugar.** The original amount is {s} g.", "Scaled by {k} we need {s} * {k} = {=s*k} g.")),
            Part("Find the butter to buy.", "the butter", "the weight of the butter", "b*k",
                 ("Butter: the recipe asks for {b} g per batch.", "{k} batches take {b} * {k} = {=b*k} g.")),
        ),
    ),
    Scene(
        "tour",
        "A bus goes from Aldern to Brook, {a} km at {u} km/h, and a van from Cole to Dunn in {w} hours at {v} km/h. "
        "The bus needs {l} litres of fuel per 100 km. Plan the tour.",
        {"a": (4, 9), "u": (50, 90), "w": (13, 17), "v": (41, 79), "l": (13, 31)},
        (
            Part("Work out the distance of the van.", "the van", "the distance of the van", "w*v",
                 ("The van drives {w} hours at a steady {v} km/h.",
                  "distance = speed × time = {v} × {w} = {=v*w} km")),
            Part("Work out the fuel of the bus for {w} such legs of 100 km.", "the bus", "the fuel of the bus", "l*w",
                 ("Per 100 km the bus burns {l} litres.",
                  "For {w} legs: {w} × {l} = {=l*w} litres.",
                  "The tank has to hold that much or be filled on the way.")),
        ),
    ),
    Scene(
        "sums",
        "Evaluate the sum of the integers from 1 to {n}, the sum of the first {m} odd numbers, and the sum of the first "
        "{k} even numbers.",
        {"n": (21, 59), "m": (14, 37), "k": (17, 39)},
        (
            Part("Evaluate the sum of the integers.", "the integers", "the sum of the integers", "n*(n+1)/2",
                 ("The formula is $S = n(n+1)/2$ with $n = {n}$.",
                  "$S = {n} \\cdot {=n+1} / 2 = {=n*(n+1)/2}$.")),
            Part("Evaluate the sum of the odd numbers.", "the odd numbers", "the sum of the odd numbers", "m*m",
                 ("The first n odd numbers add up to n^2; here n = {m}.", "{m}^2 = {=m*m}.")),
            Part("Evaluate the sum of the even numbers.", "the even numbers", "the sum of the even numbers", "k*(k+1)",
                 ("Even numbers up to 2n add up to n(n+1).",
                  "With n = {k} the sum is {k} × {=k+1} = {=k*(k+1)}.")),
        ),
    ),
    Scene(
        "cases",
        "A guest pays {a} dollars a night for {n} nights by card, with a fee of {f} dollars, or {b} dollars a night in "
        "cash without a fee. What is the bill in each case?",
        {"a": (41, 89), "b": (43, 97), "n": (13, 23), "f": (14, 30)},
        (
            Part("Case A: the guest pays by card.", "the card", "the bill by card", "a*n+f",
                 ("Suppose the guest uses a card.", "The nights come to {a} × {n} = {=a*n} dollars.",
                  "With the fee the bill is {=a*n} + {f} = {=a*n+f} dollars.")),
            Part("Case B: the guest pays in cash.", "cash", "the bill in cash", "b*n",
                 ("Suppose the guest pays cash.", "There is no fee, so the bill is {b} × {n} = {=b*n} dollars.")),
        ),
    ),
    Scene(
        "pumps",
        "Two pumps run day and night. Pump P moves {a} litres a minute, pump Q {b} litres a minute. How much does each "
        "move in a day?",
        {"a": (13, 48), "b": (15, 49)},
        (
            Part("How much does pump P move in a day?", "pump P", "the daily volume of pump P", "a*1440",
                 ("A day has 24 × 60 = 1,440 minutes.", "Pump P moves {a} × 1,440 = {=a*1440} litres.")),
            Part("How much does pump Q move in a day?", "pump Q", "the daily volume of pump Q", "b*1440",
                 ("There are 24 × 60 = 1440 minutes in a day.", "Pump Q moves {b} × 1440 = {=b*1440} litres.")),
        ),
    ),
    Scene(
        "two ways",
        "Compute {a} × {b} in two ways and see whether they agree.",
        {"a": (23, 49), "b": (17, 29)},
        (
            Part("Multiply directly.", "direct multiplication", "the direct product", "a*b+0",
                 ("Direct multiplication: {a} × {b} = {=a*b}.",)),
            Part("Split the second factor.", "splitting", "the split product", "a*b",
                 ("Write {b} as 10 + {=b-10}.", "Then {a} × 10 = {=a*10} and {a} × {=b-10} = {=a*(b-10)}.",
                  "Altogether {=a*10} + {=a*(b-10)} = {=a*b}.")),
        ),
        planted=False,
    ),
    Scene(
        "unknowns",
        "A farmer's hens and geese number {t}, with {d} more hens than geese. A miller's sacks and bags number {u}, "
        "with {e} more sacks than bags. How many geese and how many bags are there?",
        {"t": (31, 59), "d": (2, 11), "u": (61, 99), "e": (2, 12)},
        (
            Part("Find the number of geese.", "the geese", "the number of geese", "(t-d)/2",
                 ("Let g be the number of geese, so there are g + {d} hens.",
                  "Then 2g + {d} = {t}, so 2g = {=t-d} and g = {=(t-d)/2}.")),
            Part("Find the number of bags.", "the bags", "the number of bags", "(u-e)/2",
                 ("Let b be the number of bags; the sacks are b + {e}.",
                  "From b + b + {e} = {u} we get 2b = {=u-e}.", "So b = {=(u-e)/2}.")),
        ),
    ),
)  # fmt: skip

WORDINGS = (
    *(
        Wording(REFERENCE, text, "start")
        for text in (
            "In a similar fashion, {line}",
            "Following the same logic as in the {ordinal} case, {line}",
            "The reasoning here mirrors that used for {sib}.",
            "As was done for {sib}, {line}",
            "By an argument identical to the one just given, {line}",
            "We repeat this procedure with {me}.",
            "Turning our attention next to {me}, {line}",
            "Moving on to {me}: {line}",
            "With {sib} out of the way, {line}",
            "Once more, {line}",
            "The approach is unchanged from {sib}.",
            "The work for {sib} was finished a moment ago, so only {me} is left.",
            "Unlike {sib}, which was handled above, {line}",
            "Exactly as we just did, {line}",
            "Here too, {line}",
            "Now we do the same thing for {me}.",
            "Having dealt with {sib}, we now look at {me}.",
            "The other computation already gave us what we need, so {line}",
            "The remaining piece is {me}; the rest has been covered by the other branches.",
            "Copying the method from the earlier branch, {line}",
            "Let us apply the aforementioned steps to {me}.",
            "Same idea as before: {line}",
            "This parallels the calculation of {sib_quantity}.",
            "Along the lines of what was computed for {sib}, {line}",
            "Next up is {me}.",
            "Continuing from there, {line}",
            "On the flip side, {line}",
            "In contrast to the situation we considered earlier, {line}",
            "Lastly, {line}",
            "Building on the result obtained in the other part, {line}",
            "The value worked out previously will be handy here.",
            "This leaves {me} as the last thing to check.",
            "Using the identical technique, {line}",
            "Again we start from the data: {line}",
            "Like the first one, this part is short: {line}",
        )
    ),
    *(
        Wording(REFERENCE, text, "inside")
        for text in (
            "As in the preceding derivation, we only have to insert the data.",
            "See the computation above for {sib}.",
            "Our earlier finding about {sib} carries over.",
            "The same pattern as with {sib} shows up.",
            "We have met this kind of step in the other branch.",
        )
    ),
    *(
        Wording(LABEL, text, "start")
        for text in (
            "Using the outcome of path {j}, {line}",
            "Branch {j} gives us a head start.",
            "Step S{j} supplies the missing ingredient.",
            "Plugging in what case {j} delivered, {line}",
            "We rely on sub-task {j} here.",
            "From outline {j} we know the approach.",
            "The answer of thread {j} enters here.",
            "Path #{j} has the details.",
            "As Case {roman} showed, {line}",
            "Subproblem {letter} covers the rest.",
            "Scenario {word} is the mirror image of this one.",
            "Taking the conclusion of path 1.{j}, {line}",
            "Goal {j} is a prerequisite: {line}",
        )
    ),
    *(
        Wording(LABEL, text, "inside")
        for text in (
            "The set-up is explained in part {j}.",
            "Task {j}'s figure is used without change.",
            "(cf. Part {j})",
            "We know from S{j} that the data are consistent.",
            "Section {j} has the same structure.",
        )
    ),
    *(
        Wording(NUMBER, text, "start")
        for text in (
            "Here {r} units are already accounted for.",
            "With {sib_quantity} equal to {r}, {line}",
            "Given that {sib} accounts for {r}, {line}",
            "Taking {r} as the starting value, {line}",
            "Substituting {r}, {line}",
            "Because we have {r} to begin with, {line}",
        )
    ),
    *(
        Wording(NUMBER, text, "end")
        for text in (
            "Adding {r} brings the figure to {=r+own}.",
            "The gap to {r} is {=big-small}.",
            "Since {r} is available, {=r*2} is twice that.",
            "The ratio {r}/{own} will be used in the end.",
            "{r} + {own} = {=r+own}.",
            "Out of a combined {=r+own}, {r} belong to {sib}.",
            "Multiplying by {r}: {own} × {r} = {=own*r}.",
            "It exceeds or falls short of {r}, as {own} is not {r}.",
            "The average with {r} is ({own} + {r})/2 = {=(own+r)/2}.",
            "For comparison, {sib} comes in at {r}.",
            "Keep in mind the {r} for {sib}.",
            "We check {own} against {r}.",
            "Then {r} - x = {own} can be solved for x.",
            "Is {own} a divisor of {r}?",
        )
    ),
    *(
        Wording(SYMBOL, use, "end", definition)
        for definition, use in (
            ("Let {S} be the number just obtained.", "Adding {S} to this completes the figure."),
            ("Denote this value by {S}.", "The quantity {S} + {own} is what matters in the end."),
            ("We write {S} for {my_quantity}.", "Multiplying by {S} would give the product."),
            ("Set {S} := {r}.", "So {own} - {S} is the difference."),
            ("For brevity, call this amount {S}.", "Comparing with {S}, the two are unequal."),
            ("{S} = {r} from here on.", "Hence {S} > {own} or {S} < {own}."),
            ("Introduce a function g with g(t) = {r}t.", "Evaluating g(2) settles the scale."),
            ("We will refer to this as the base load.", "The base load is added at the end."),
            ("Define the slack as {r}.", "The slack does not matter for {own}."),
            ("Let us name this figure \"the anchor\".", "Measured against the anchor, it is fine."),
            ("Let \\({S}\\) stand for this result.", "Then \\({S} + {own}\\) is the total."),
            ("Put T_0 = {r}.", "The ratio {own}/T_0 is recorded."),
            ("Here θ denotes the value {r}.", "Rotating by θ changes nothing."),
            ("Suppose {S} represents {my_quantity}.", "We keep {S} fixed."),
            ("The result will be labelled {S}.", "{own} is compared with {S} afterwards."),
            ("This number, K from now on, is kept.", "It follows that K and {own} have to be added."),
            ("Let $\\alpha = {r}$.", "The expression $\\alpha x$ is linear."),
        )
    ),
)  # fmt: skip

TEMPTING = (
    *(
        Tempting(text, "inside")
        for text in (
            "The two triangles involved are similar, with the same angles.",
            "Reading the statement again confirms the data.",
            "The previous year is not relevant to this.",
            "It sits next to the wall, above the ground.",
            "The same number appears on both sides, so the equation is balanced.",
            "On the other side of the equation nothing changes.",
            "The first step is to list the data; the second step is to compute.",
            "One leg is known and the other follows from it.",
            "We have already been told everything that is needed.",
            "The following computation gives the value.",
            "Step 1: read the data. Step 2: calculate. Step 1 is immediate.",
            "As stated in the problem, the numbers are given.",
            "As the question says above, the data are fixed.",
            "Multiplying out gives the next line.",
            "No other value is possible.",
            "The day after is not considered.",
            "The former manager and the latter part of the story play no role.",
            "The last digit is considered separately.",
            "Every other entry is left out.",
            "Two parts of the work are adding and checking.",
            "The above-average size is of no concern.",
            "First we note the data, next we combine them.",
            "By the definition given in the question, this is immediate.",
            "In the end, 60 minutes make an hour, and 7 days a week.",
            "Note that 1 + 2 = 3, so this step is fine.",
            "Then the value follows at once.",
            "The alternative spelling of the name is ignored.",
            "The second number is the smaller one.",
            "In this case the formula applies directly.",
            "This case is straightforward.",
            "Half of it goes to one place and the other half to another.",
            "Path length and step size are not needed.",
            "Next, we insert the numbers from the question.",
            "Let us do the same to both sides.",
        )
    ),
    *(
        Tempting(text, "end")
        for text in (
            "Checking again: {own} is right.",
            "This result is exact.",
            "There are 2 ways to see this, and both give {own}.",
            "Let t be this value; then 2t = {=2*own}.",
            "In other words, it is {own}.",
            "A further check: half of {own} is {=own/2}, and twice {=own/2} is {own}.",
            "The result is the same as 100% of {own}.",
            "Let M be this value, so M = {own} and 2M = {=2*own}.",
            "Therefore the figure stands.",
            "Another way to see it: {own} is what remains.",
            "Previously unknown, the value is now {own}.",
            "It takes one more step: write {own}.",
            "The {own} computed above is the value asked for.",
            "The answer to this part is the number we found above.",
        )
    ),
)  # fmt: skip

HELD_OUT = Material("held_out", SCENES, WORDINGS, TEMPTING, fold=1)
